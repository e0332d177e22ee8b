//! The demo: a lake filled from the simulator, and the proof that it holds what was sent.

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Faults, Generator, KeyOrder, Simulator};
use crate::cdr::amount::AmountSum;
use crate::cdr::slice::Slice;
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::Commit;
use crate::ops::job::{Job, Outcome};
use crate::ops::open::open_lake;
use crate::ops::verify::read_back;
use crate::ops::{Error, Observer};
use crate::source::wavix::Api;
use crate::store::location::Location;

/// Days of the demo lake, both directions each.
const DAYS: i64 = 30;
/// About a million in [`DAYS`].
const CALLS_PER_DAY: u64 = 34_500;
const KEY: &str = "demo";
const ACCOUNT: &str = "cdrlake demo";

/// A simulated API, and a lake for what it sends.
#[derive(Debug)]
pub(crate) struct Demo {
    generator: Generator,
    config: Config,
    lake: Lake,
    server: JoinHandle<()>,
}

/// What the lake holds, and that it is what was sent.
#[derive(Debug)]
pub(crate) struct Proven {
    /// Every slice.
    pub commits: Vec<(Slice, Commit)>,
    /// What they hold together.
    pub sums: Sums,
}

impl Demo {
    /// Starts the API, and opens the lake at the place `lake`, or makes it: for the thirty days
    /// before `now`.
    ///
    /// # Errors
    /// [`Error`] if no port is free, or the lake cannot be opened.
    pub(crate) async fn start(lake: &str, now: Timestamp) -> Result<Self, Error> {
        let generator = Generator {
            seed: 42,
            calls_per_day: CALLS_PER_DAY,
            key_order: KeyOrder::Shuffled,
        };
        let simulator = Simulator::new(generator.clone(), KEY, Faults::default());
        let (address, server) = simulator.serve(TcpListener::bind(("127.0.0.1", 0)).await?)?;
        let start = now
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date()
            .checked_sub(DAYS.days())
            .expect("thirty days ago there was a day");
        let config = Config::from_keys([
            ("source.url", format!("http://{address}")),
            ("lake.url", lake.to_owned()),
            ("window.start", start.to_string()),
            // No real lake has this label: neither is taken for the other.
            ("lake.account", ACCOUNT.to_owned()),
            // Simulated calls are neither late nor re-rated.
            ("window.lookback_days", "0".to_owned()),
            ("window.settle_hours", "0".to_owned()),
        ])?;
        let mut lake = open_lake(&config, false).await?;
        // The simulator has another port every time.
        lake.remarks.clear();
        Ok(Self {
            generator,
            config,
            lake,
            server,
        })
    }

    /// Where the lake lies.
    pub(crate) fn root(&self) -> &Location {
        &self.config.lake.url
    }

    /// Where the API answers.
    pub(crate) fn url(&self) -> String {
        self.config
            .source
            .url
            .as_str()
            .trim_end_matches('/')
            .to_owned()
    }

    /// Brings the lake up to date.
    ///
    /// # Errors
    /// [`Error`] if nothing was begun.
    pub(crate) async fn run(
        &self,
        observer: Arc<dyn Observer>,
        interrupt: CancellationToken,
    ) -> Result<Outcome, Error> {
        let source = Api::try_new(&self.config.source, Some(SecretString::from(KEY)))?;
        let job = Job::new(self.config.clone(), Arc::new(source))
            .with_observer(observer)
            .with_interrupt(interrupt);
        job.run_in(self.lake.clone()).await
    }

    /// Proves that `lake` holds for `days` what the API sent.
    ///
    /// # Errors
    /// [`Error::NotProven`] if not, [`Error`] if it cannot be read.
    pub(crate) async fn prove(
        &self,
        lake: &Lake,
        days: RangeInclusive<Date>,
    ) -> Result<Proven, Error> {
        let entries = lake.entries(&self.config.source.directions, days).await?;
        let commits = entries.into_iter().map(|(slice, found)| {
            let commit = found.entry.committed.ok_or_else(|| Error::NotProven {
                slice,
                problem: "it was not committed".to_owned(),
            })?;
            Ok((slice, commit))
        });
        let commits: Vec<(Slice, Commit)> = commits.collect::<Result<_, Error>>()?;
        let sums = prove(lake, &self.generator, &commits).await?;
        Ok(Proven { commits, sums })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What a slice, or several, hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Calls.
    pub rows: u64,
    /// Seconds talked.
    pub seconds: i64,
    /// Charges, in US dollars.
    pub charge: AmountSum,
    /// Fees of forwarding, in US dollars.
    pub forward_fee: AmountSum,
}

/// Reads every file back and compares it with the ledger, by digest, and with the calls that the
/// simulator makes, by sums.
async fn prove(
    lake: &Lake,
    generator: &Generator,
    commits: &[(Slice, Commit)],
) -> Result<Sums, Error> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let proofs = stream::iter(commits).map(|(slice, commit)| async move {
        let (slice, commit, generator) = (*slice, commit.clone(), generator.clone());
        let copy = lake.table().local_copy(slice).await?;
        let proof = tokio::task::spawn_blocking(move || {
            let wrong = |problem: &str| Error::NotProven {
                slice,
                problem: problem.to_owned(),
            };
            let mut found = Sums::default();
            if commit.file.is_some() {
                let copy = copy.ok_or_else(|| wrong("its file is gone"))?;
                let content = read_back(&copy.path, slice)
                    .map_err(|error| wrong(&crate::error::chain(&error)))?;
                if content.digest != commit.digest {
                    return Err(wrong("the file does not hold what its ledger entry says"));
                }
                found = Sums {
                    rows: content.counts.rows,
                    seconds: content.totals.duration_seconds,
                    charge: content.totals.charge_usd,
                    forward_fee: content.totals.forward_fee_usd,
                };
            }
            if found != generated(&generator, slice) {
                return Err(wrong("the file does not hold what the simulator sent"));
            }
            Ok(found)
        });
        proof.await.expect("proving does not panic")
    });
    let add = |sum: Sums, one: Sums| {
        let mut sum = Sums {
            rows: sum.rows + one.rows,
            seconds: sum.seconds + one.seconds,
            ..sum
        };
        sum.charge.merge(one.charge);
        sum.forward_fee.merge(one.forward_fee);
        std::future::ready(Ok(sum))
    };
    proofs
        .buffer_unordered(threads)
        .try_fold(Sums::default(), add)
        .await
}

fn generated(generator: &Generator, slice: Slice) -> Sums {
    let mut sums = Sums {
        rows: generator.count(slice, Timestamp::now()),
        ..Sums::default()
    };
    for index in 0..sums.rows {
        let call = generator.call(slice, index);
        sums.seconds += i64::from(call.duration_seconds);
        sums.charge.add(call.charge);
        sums.forward_fee.add(call.forward_fee.unwrap_or_default());
    }
    sums
}
