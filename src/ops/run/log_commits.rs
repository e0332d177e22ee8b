//! Commits published slices to the logs of table formats while the run goes on.
//!
//! A commit covers all slices that were published since the last one. So a backfill of years makes
//! few commits, and readers see the days of a short run at once: [`run`](super::run()) commits what
//! is left when it ends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::cdr::slice::Slice;
use crate::error::chain;
use crate::lake::SyncScope;

/// Pause between commits of one run.
const PAUSE: Duration = Duration::from_mins(1);

/// Slices that the logs lack.
#[derive(Debug, Default)]
pub(super) struct Unlogged(Mutex<BTreeSet<Slice>>);

impl Unlogged {
    pub(super) fn add(&self, slices: impl IntoIterator<Item = Slice>) {
        self.0.lock().expect(NEVER_POISONED).extend(slices);
    }

    pub(super) fn take(&self) -> BTreeSet<Slice> {
        std::mem::take(&mut *self.0.lock().expect(NEVER_POISONED))
    }
}

const NEVER_POISONED: &str = "no code panics while it holds the lock";

/// The task that commits.
pub(super) struct LogCommits {
    ended: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Starts the task, if the lake has logs.
pub(super) fn spawn(context: &Arc<Context>) -> LogCommits {
    let ended = CancellationToken::new();
    let task = context.lake.has_logs().then(|| {
        let (context, ended) = (Arc::clone(context), ended.clone());
        tokio::spawn(async move {
            while tokio::time::timeout(PAUSE, ended.cancelled())
                .await
                .is_err()
            {
                commit(&context).await;
            }
        })
    });
    LogCommits { ended, task }
}

impl LogCommits {
    /// Waits for a commit that is under way.
    pub(super) async fn end(self) {
        self.ended.cancel();
        if let Some(task) = self.task
            && let Err(error) = task.await
        {
            tracing::error!("{error}");
        }
    }
}

async fn commit(context: &Context) {
    let slices = context.unlogged.take();
    if slices.is_empty() {
        return;
    }
    let scope = SyncScope::Slices(slices.clone());
    if let Err(error) = context.lake.sync_logs(&scope, &context.run).await {
        tracing::info!("{}. Trying again later.", chain(&error));
        context.unlogged.add(slices);
    }
}
