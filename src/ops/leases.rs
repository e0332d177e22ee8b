//! Leases that another process may hold.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cdr::slice::Slice;
use crate::lake::{Lake, LakeError};
use crate::store::Lease;

/// Pause between attempts to take a lease that a run holds.
const HELD_LEASE_POLL: Duration = Duration::from_secs(1);

/// Takes the lease of a slice, and waits while a run holds it. `None` if this was interrupted.
///
/// # Errors
/// [`LakeError`] if the store fails.
pub(super) async fn wait_for_lease(
    lake: &Lake,
    slice: Slice,
    interrupt: &CancellationToken,
) -> Result<Option<Box<dyn Lease>>, LakeError> {
    let mut wait = Wait::default();
    while wait.goes_on(interrupt).await {
        if let Some(lease) = lake.try_lease(slice).await? {
            return Ok(Some(lease));
        }
        wait.log(&format!(
            "Waiting for a run that holds the lease of {slice}."
        ));
    }
    Ok(None)
}

/// Takes the lease under which the lake is converted, and waits while another conversion holds it.
/// `None` if this was interrupted.
///
/// # Errors
/// [`LakeError`] if the store fails.
pub(super) async fn wait_for_conversion_lease(
    lake: &Lake,
    interrupt: &CancellationToken,
) -> Result<Option<Box<dyn Lease>>, LakeError> {
    let mut wait = Wait::default();
    while wait.goes_on(interrupt).await {
        if let Some(lease) = lake.try_conversion_lease().await? {
            return Ok(Some(lease));
        }
        wait.log("Waiting for another conversion of this lake.");
    }
    Ok(None)
}

/// Pauses between attempts, and tells once what it waits for.
#[derive(Debug, Default)]
struct Wait {
    is_logged: bool,
}

impl Wait {
    /// Pauses, unless this is the first attempt. Returns whether there is to be one.
    async fn goes_on(&self, interrupt: &CancellationToken) -> bool {
        if self.is_logged {
            tokio::select! {
                () = interrupt.cancelled() => {}
                () = tokio::time::sleep(HELD_LEASE_POLL) => {}
            }
        }
        !interrupt.is_cancelled()
    }

    fn log(&mut self, what: &str) {
        if !std::mem::replace(&mut self.is_logged, true) {
            tracing::info!("{what}");
        }
    }
}
