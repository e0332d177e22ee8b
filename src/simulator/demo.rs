//! The demo: fills a lake from the simulator and proves that it holds exactly the calls sent.

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
use crate::cdr::slice::Slice;
use crate::cdr::tally::Totals;
use crate::config::Config;
use crate::lake::Lake;
use crate::lake::ledger::Commit;
use crate::ops::days::DayRange;
use crate::ops::job::{Job, Outcome};
use crate::ops::open::open_lake;
use crate::ops::report::Report;
use crate::ops::verify::read_back;
use crate::ops::{Error, Observer};
use crate::source::wavix::Api;
use crate::store::location::Location;

/// Days of the demo lake, each with both directions.
const DAYS: i64 = 30;
/// About a million calls in [`DAYS`].
const CALLS_PER_DAY: u64 = 34_500;
const KEY: &str = "demo";
const ACCOUNT: &str = "cdrlake demo";

/// A simulated API and a lake for its calls.
#[derive(Debug)]
pub(crate) struct Demo {
    generator: Generator,
    config: Config,
    lake: Lake,
    server: JoinHandle<()>,
}

/// The content of the lake, proven to be what the simulator sent.
#[derive(Debug)]
pub(crate) struct Proven {
    /// Every slice.
    pub commits: Vec<(Slice, Commit)>,
    /// Number of rows.
    pub rows: u64,
    /// Sums over the rows.
    pub totals: Totals,
}

impl Demo {
    /// Starts the API and opens or creates the lake at `lake`, for the thirty days before `now`.
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
            .expect("the calendar has a day thirty days ago");
        let config = Config::from_keys([
            ("source.url", format!("http://{address}")),
            ("lake.url", lake.to_owned()),
            ("window.start", start.to_string()),
            // No real lake has this label, so the two cannot be confused.
            ("lake.account", ACCOUNT.to_owned()),
            // Simulated calls are neither late nor re-rated.
            ("window.lookback_days", "0".to_owned()),
            ("window.settle_hours", "0".to_owned()),
        ])?;
        let mut lake = open_lake(&config, false).await?;
        // The simulator has a new port in every run, so the remark about the address is useless.
        lake.remarks.clear();
        Ok(Self {
            generator,
            config,
            lake,
            server,
        })
    }

    /// The location of the lake.
    pub(crate) fn root(&self) -> &Location {
        &self.config.lake.url
    }

    /// The address of the API.
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
    /// [`Error`] if the run could not begin.
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

    /// The report on all of `lake`.
    ///
    /// # Errors
    /// [`Error`] if the lake cannot be read.
    pub(crate) async fn report(&self, lake: &Lake, now: Timestamp) -> Result<Report, Error> {
        Report::make(lake, &self.config, &DayRange::default(), false, now).await
    }

    /// Proves that `lake` holds exactly the calls that the API sent for `days`.
    ///
    /// # Errors
    /// [`Error::NotProven`] if it does not, another [`Error`] if the lake cannot be read.
    pub(crate) async fn prove(
        &self,
        lake: &Lake,
        days: RangeInclusive<Date>,
    ) -> Result<Proven, Error> {
        let entries = lake.entries(&self.config.source.directions, days).await?;
        let commits = entries.into_iter().map(|(slice, found)| {
            let commit = found.entry.committed.ok_or_else(|| Error::NotProven {
                slice,
                problem: "the slice was not committed".to_owned(),
            })?;
            Ok((slice, commit))
        });
        let commits: Vec<(Slice, Commit)> = commits.collect::<Result<_, Error>>()?;
        let (rows, totals) = prove(lake, &self.generator, &commits).await?;
        Ok(Proven {
            commits,
            rows,
            totals,
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Reads every file and compares its digest with the ledger, and its sums with the simulator's
/// calls. Returns the number of rows and their sums.
async fn prove(
    lake: &Lake,
    generator: &Generator,
    commits: &[(Slice, Commit)],
) -> Result<(u64, Totals), Error> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let proofs = stream::iter(commits).map(|(slice, commit)| async move {
        let (slice, commit, generator) = (*slice, commit.clone(), generator.clone());
        let copy = match &commit.file {
            Some(file) => lake.local_copy(&file.location()).await?,
            None => None,
        };
        let proof = tokio::task::spawn_blocking(move || {
            let wrong = |problem: &str| Error::NotProven {
                slice,
                problem: problem.to_owned(),
            };
            let mut found = (0, Totals::default());
            if commit.file.is_some() {
                let copy = copy.ok_or_else(|| wrong("its file is missing"))?;
                let content = read_back(&copy.path, slice)
                    .map_err(|error| wrong(&crate::error::chain(&error)))?;
                if content.digest != commit.digest {
                    return Err(wrong("the file does not match its ledger entry"));
                }
                found = (content.counts.rows, content.totals);
            }
            if found != generated(&generator, slice) {
                return Err(wrong(
                    "the file does not match the calls that the simulator sent",
                ));
            }
            Ok(found)
        });
        proof.await.expect("proving does not panic")
    });
    let mut sum = (0, Totals::default());
    let mut proofs = std::pin::pin!(proofs.buffer_unordered(threads));
    while let Some((rows, totals)) = proofs.try_next().await? {
        sum.0 += rows;
        sum.1.merge(&totals);
    }
    Ok(sum)
}

/// Number and sums of the calls that the simulator generates for a slice.
fn generated(generator: &Generator, slice: Slice) -> (u64, Totals) {
    let calls = generator.count(slice, Timestamp::now());
    let mut totals = Totals::default();
    for index in 0..calls {
        let call = generator.call(slice, index);
        totals.duration_seconds += i64::from(call.duration_seconds);
        totals.charge_usd.add(call.charge);
        totals
            .forward_fee_usd
            .add(call.forward_fee.unwrap_or_default());
        let same = totals.by_disposition.entry(call.disposition.to_owned());
        *same.or_default() += 1;
    }
    (calls, totals)
}
