//! A run from the configuration to its report: what every command that fetches does.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::days::Selection;
use super::open::open_lake;
use super::plan::{Plan, plan};
use super::run::{RunOptions, RunResult, run};
use super::{Error, Observer, UsageError, period_remarks};
use crate::config::Config;
use crate::lake::Lake;
use crate::source::Source;

/// Brings a lake up to date: opens it, or makes it, plans, and does what is due.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before it is run"]
pub struct Job {
    config: Arc<Config>,
    source: Arc<dyn Source>,
    selection: Selection,
    allow_shrink: bool,
    observer: Arc<dyn Observer>,
    interrupt: CancellationToken,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The lake, up to date as far as the run got.
    pub lake: Lake,
    /// What was due, and what was not.
    pub plan: Plan,
    /// What was done.
    pub run: RunResult,
}

impl Job {
    /// A job on the lake that `config` names, with calls from `source`: all days from
    /// `window.start` to yesterday.
    pub fn new(config: Config, source: Arc<dyn Source>) -> Self {
        Self {
            config: Arc::new(config),
            source,
            selection: Selection::default(),
            allow_shrink: false,
            observer: Arc::new(()),
            interrupt: CancellationToken::new(),
        }
    }

    /// Other days, or only some slices.
    pub fn with_selection(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// Whether a slice may lose rows against what the lake has of it. By default it fails.
    pub fn with_allow_shrink(self, allow_shrink: bool) -> Self {
        Self {
            allow_shrink,
            ..self
        }
    }

    /// Receives the progress.
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// Cancelling `interrupt` ends the run early and cleanly.
    pub fn with_interrupt(self, interrupt: CancellationToken) -> Self {
        Self { interrupt, ..self }
    }

    /// Opens the lake, or makes it, and runs.
    ///
    /// # Errors
    /// [`Error`] if nothing was started: the selection has no days, or the lake cannot be opened.
    /// What becomes of slices is in the report.
    pub async fn run(self) -> Result<Outcome, Error> {
        // A wrong selection is reported before a lake is made.
        plan(&self.config, &self.selection, None, Timestamp::now()).await?;
        let lake = open_lake(&self.config, false).await?;
        self.run_in(lake).await
    }

    /// Runs in a lake that is open already.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_in(self, lake: Lake) -> Result<Outcome, Error> {
        if self.selection.shard.is_some() && !lake.honours_conditions().await? {
            return Err(UsageError::NoShards.into());
        }
        let now = Timestamp::now();
        let plan = plan(&self.config, &self.selection, Some(&lake), now).await?;
        let unit = lake.identity.period_unit();
        let window = &self.config.window;
        let options = RunOptions {
            remarks: period_remarks::on_selection(&self.selection, window, unit, now),
            allow_shrink: self.allow_shrink,
            from: self.selection.from,
            include_today: self.selection.include_today,
            ..RunOptions::default()
        };
        Ok(self.carry_out(lake, plan, options).await)
    }

    /// Does what is due.
    pub(super) async fn carry_out(
        self,
        lake: Lake,
        plan: Plan,
        mut options: RunOptions,
    ) -> Outcome {
        tracing::info!(
            due = plan.due.len(),
            up_to_date = plan.up_to_date,
            from = %plan.days.start(),
            to = %plan.days.end(),
            "Planned."
        );
        options.remarks.extend(plan.foreign_remark());
        options.replaced.clone_from(&plan.replaced);
        let run = run(
            self.config,
            lake.clone(),
            self.source,
            plan.due.clone(),
            options,
            self.observer,
            self.interrupt,
        );
        let run = run.await;
        Outcome { lake, plan, run }
    }
}
