//! When the API may be asked: the patience that it asks for, and the pace that it allows.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::header::HeaderMap;
use tokio::time::Instant;

/// How long the server asks to wait: `Retry-After` in seconds or as an HTTP date; after a 429 also
/// `X-RateLimit-Reset`, which many servers send with every response. Dates are compared with the
/// response's own `Date`, so that a wrong local clock does not matter. Invalid values are ignored.
pub(super) fn asked_for(headers: &HeaderMap, now: Timestamp, is_limited: bool) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let server_now = text("date").and_then(http_date).unwrap_or(now);
    let until =
        |then: Timestamp| Duration::try_from(then.duration_since(server_now)).unwrap_or_default();
    if let Some(text) = text("retry-after") {
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        if let Some(date) = http_date(text) {
            return Some(until(date));
        }
    }
    let reset = text("x-ratelimit-reset")
        .filter(|_| is_limited)?
        .parse::<f64>()
        .ok()
        .filter(|reset| *reset >= 0.0)?;
    // Seconds or milliseconds since 1970, or seconds from now: they differ by their size.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a saturating cast of a number within range"
    )]
    match reset {
        millis if millis > 1e12 => Timestamp::from_millisecond(millis as i64).ok().map(until),
        seconds if seconds > 1e9 => Timestamp::from_second(seconds as i64).ok().map(until),
        seconds => Duration::try_from_secs_f64(seconds).ok(),
    }
}

pub(super) fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text)
        .ok()
        .map(|date| date.timestamp())
}

/// Holds back every request while the server asks for patience: a 429 is meant for all slices, not
/// only for the one that met it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed_until: Mutex<Option<Instant>>,
}

impl Gate {
    /// Keeps the gate closed for `wait` from now, or longer if it is already.
    pub(super) fn close_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut closed_until = self
            .closed_until
            .lock()
            .expect("no code panics while it holds the lock");
        *closed_until = Some(closed_until.map_or(until, |already| already.max(until)));
    }

    /// Until when it is closed, if it is.
    fn opens_at(&self) -> Option<Instant> {
        let until = *self
            .closed_until
            .lock()
            .expect("no code panics while it holds the lock");
        until.filter(|until| *until > Instant::now())
    }

    /// Whether requests may be sent now.
    pub(super) fn is_open(&self) -> bool {
        self.opens_at().is_none()
    }

    /// Returns once the gate is open.
    pub(super) async fn pass(&self) {
        while let Some(until) = self.opens_at() {
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Spaces requests evenly, so that no minute has more of them than allowed.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next request may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// As fast as `requests_per_minute`, or without a limit.
    pub(super) fn new(requests_per_minute: Option<NonZeroU32>) -> Self {
        // Rounded up: one request too many would be against the limit.
        let interval = requests_per_minute
            .map(|limit| Duration::from_nanos(60_000_000_000_u64.div_ceil(u64::from(limit.get()))));
        Self {
            interval: interval.unwrap_or_default(),
            next: Mutex::default(),
        }
    }

    /// Returns when it is this request's turn.
    pub(super) async fn turn(&self) {
        let turn = {
            let mut next = self
                .next
                .lock()
                .expect("no code panics while it holds the lock");
            let now = Instant::now();
            let turn = next.map_or(now, |next| next.max(now));
            *next = Some(turn + self.interval);
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

/// When a wait of `wait` from `now` is over, here and in UTC.
pub(super) fn describe_until(now: Timestamp, wait: Duration, zone: TimeZone) -> String {
    const CLOCK: &str = "%Y-%m-%d %H:%M:%S";
    let Ok(until) = now.checked_add(wait) else {
        return format!("{} seconds from now", wait.as_secs());
    };
    let here = until.to_zoned(zone);
    format!(
        "{} here ({} UTC)",
        here.strftime(CLOCK),
        until.strftime(CLOCK)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    reqwest::header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn every_form_of_a_requested_wait_is_parsed() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let seconds = |pairs: &[(&'static str, &str)]| {
            asked_for(&headers(pairs), now, true).map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(&[("retry-after", "7")]), Some(7));
        assert_eq!(
            seconds(&[("retry-after", "Tue, 14 Nov 2023 22:13:30 GMT")]),
            Some(10)
        );
        assert_eq!(
            seconds(&[
                ("retry-after", "Tue, 14 Nov 2023 22:13:30 GMT"),
                ("date", "Tue, 14 Nov 2023 22:13:25 GMT")
            ]),
            Some(5)
        );
        assert_eq!(
            seconds(&[("retry-after", "Tue, 14 Nov 2023 22:00:00 GMT")]),
            Some(0),
            "a date that has passed"
        );
        assert_eq!(seconds(&[("retry-after", "soon")]), None);
        assert_eq!(seconds(&[("retry-after", "-3")]), None);
        assert_eq!(seconds(&[("x-ratelimit-reset", "1700000012")]), Some(12));
        assert_eq!(seconds(&[("x-ratelimit-reset", "1700000012000")]), Some(12));
        assert_eq!(seconds(&[("x-ratelimit-reset", "12")]), Some(12));
        assert_eq!(seconds(&[("x-ratelimit-reset", "NaN")]), None);
        assert_eq!(seconds(&[]), None);
        let reset = headers(&[("x-ratelimit-reset", "12"), ("retry-after", "7")]);
        assert_eq!(asked_for(&reset, now, false).unwrap().as_secs(), 7);
        let reset = headers(&[("x-ratelimit-reset", "12")]);
        assert_eq!(asked_for(&reset, now, false), None, "no limit was met");
    }

    #[test]
    fn the_end_of_a_wait_is_shown_in_local_time_and_utc() {
        let now = "2026-11-26T13:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let until = |seconds| describe_until(now, Duration::from_secs(seconds), zone.clone());
        let day = "2026-11-27 14:00:05 here (2026-11-27 13:00:05 UTC)";
        assert_eq!(until(86_405), day);
        let ages = format!("{} seconds from now", u64::MAX);
        assert_eq!(until(u64::MAX), ages);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_holds_all_requests_back_until_it_opens() {
        let gate = Gate::default();
        gate.pass().await;
        let start = Instant::now();
        gate.close_for(Duration::from_secs(30));
        gate.close_for(Duration::from_secs(10));
        gate.pass().await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_requests_than_allowed_and_no_request_waits_needlessly() {
        for limit in [1, 7, 120, 999] {
            let start = Instant::now();
            let pace = Pace::new(NonZeroU32::new(limit));
            let turns = futures::future::join_all((0..=2 * limit).map(|_| async {
                pace.turn().await;
                start.elapsed()
            }));
            let turns = turns.await;
            let last = turns.last().unwrap().as_secs_f64();
            assert!(
                turns[0].is_zero() && (120.0..121.1).contains(&last),
                "{last}"
            );
            for turn in &turns {
                let minute = *turn..*turn + Duration::from_mins(1);
                let within = turns.iter().filter(|other| minute.contains(*other)).count();
                assert!(within <= limit as usize, "{within} of {limit}");
            }
        }
        let pace = Pace::new(NonZeroU32::new(120));
        // What was not used is not saved up.
        tokio::time::advance(Duration::from_mins(10)).await;
        let begun = Instant::now();
        pace.turn().await;
        pace.turn().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(500));

        let unlimited = Pace::new(None);
        for _ in 0..1000 {
            unlimited.turn().await;
        }
        assert_eq!(begun.elapsed(), Duration::from_millis(500));
    }
}
