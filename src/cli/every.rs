//! `cdrlake run --every`: one run after another, until a signal.

use std::time::Duration;

use jiff::SignedDuration;
use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{CommandError, Exit};

/// Shortest time between the beginnings of two runs.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = text.parse::<SignedDuration>().ok();
    let interval = interval.and_then(|interval| Duration::try_from(interval).ok());
    interval
        .filter(|interval| *interval >= SHORTEST_INTERVAL)
        .ok_or_else(|| format!("`{text}` is not a time of a second or more: write 15m or 1h"))
}

/// Tells a service manager that waits for it (`Type=notify` of systemd) that the configuration was
/// read, and after a signal that the last run is being ended.
pub(super) fn tell_service_manager(interrupt: &CancellationToken) {
    let tell = |state| {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!("The service manager in NOTIFY_SOCKET cannot be reached: {error}");
        }
    };
    tell(NotifyState::Ready);
    let interrupt = interrupt.clone();
    tokio::spawn(async move {
        interrupt.cancelled().await;
        tell(NotifyState::Stopping);
    });
}

/// Runs at once, and then at every multiple of `every` from now on, until `interrupt`. A run that
/// takes longer stands for those that would begin meanwhile, and the next one follows at once. What
/// keeps one from beginning is said, and the next one tries again; but a first one that is wrongly
/// configured, or whose key is refused, is the last.
pub(super) async fn repeat<F: Future<Output = Result<Exit, CommandError>>>(
    every: Duration,
    interrupt: &CancellationToken,
    run: impl Fn() -> F,
    say: impl Fn(&str),
) -> Result<Exit, CommandError> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut is_first = true;
    loop {
        tokio::select! {
            biased;
            () = interrupt.cancelled() => return Ok(Exit::Success),
            _ = ticks.tick() => {}
        }
        let done = match run().await {
            Ok(Exit::Usage) if is_first => return Ok(Exit::Usage),
            Ok(exit) => exit,
            Err(error) if is_first && error.exit == Exit::Usage => return Err(error),
            Err(error) => {
                say(&error.message);
                error.exit
            }
        };
        if interrupt.is_cancelled() {
            let is_whole = matches!(done, Exit::Success | Exit::Warnings);
            return Ok(if is_whole {
                Exit::Success
            } else {
                Exit::Interrupted
            });
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{Instant, sleep};

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    /// What came of runs that take so many seconds each: when each began, in seconds, what was
    /// said, and the end. A signal comes during the last one.
    async fn repeated(
        runs: &[(u64, Result<Exit, Exit>)],
    ) -> (Vec<u64>, Vec<String>, Result<Exit, String>) {
        let interrupt = CancellationToken::new();
        let (begun, begins) = (Instant::now(), RefCell::new(Vec::new()));
        let said = RefCell::new(Vec::new());
        let run = async || {
            let number = begins.borrow().len();
            begins.borrow_mut().push(begun.elapsed().as_secs());
            let (seconds, result) = runs[number];
            if number + 1 == runs.len() {
                interrupt.cancel();
            }
            sleep(Duration::from_secs(seconds)).await;
            result.map_err(|exit| CommandError::new(exit, format!("run {number}")))
        };
        let say = |problem: &str| said.borrow_mut().push(problem.to_owned());
        let ended = repeat(MINUTE, &interrupt, run, say).await;
        let ended = ended.map_err(|error| error.message);
        (begins.into_inner(), said.into_inner(), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn runs_begin_at_multiples_of_the_interval_except_after_one_that_takes_longer() {
        let ok = Ok(Exit::Success);
        let runs = [(7, ok), (59, ok), (130, ok), (1, ok), (1, ok)];
        let (begins, said, ended) = repeated(&runs).await;
        // The third takes until 250 s.
        assert_eq!(begins, [0, 60, 120, 250, 300]);
        assert_eq!((said.len(), ended), (0, Ok(Exit::Success)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_fails_is_said_and_the_next_one_tries_again() {
        let runs = [
            (1, Ok(Exit::Failed)),
            (1, Err(Exit::Usage)),
            (1, Err(Exit::Failed)),
        ];
        let (begins, said, ended) = repeated(&runs).await;
        assert_eq!(begins, [0, 60, 120]);
        assert_eq!(said, ["run 1", "run 2"]);
        assert_eq!(ended, Ok(Exit::Interrupted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_run_that_is_wrongly_configured_is_the_last() {
        let runs = [(0, Err(Exit::Usage)), (0, Ok(Exit::Success))];
        let (begins, said, ended) = repeated(&runs).await;
        assert_eq!((begins.len(), said.len()), (1, 0));
        assert_eq!(ended, Err("run 0".to_owned()));
        let refused = [(1, Ok(Exit::Usage)), (1, Ok(Exit::Success))];
        let (begins, _, ended) = repeated(&refused).await;
        assert_eq!((begins.len(), ended), (1, Ok(Exit::Usage)));
    }

    #[test]
    fn an_interval_is_a_time_of_a_second_or_more() {
        assert_eq!(parse_interval("15m"), Ok(15 * MINUTE));
        for wrong in ["0s", "15", "-1m", "soon", ""] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }
}
