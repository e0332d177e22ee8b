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
    let mut is_logged = false;
    while !interrupt.is_cancelled() {
        if let Some(lease) = lake.try_lease(slice).await? {
            return Ok(Some(lease));
        }
        if !std::mem::replace(&mut is_logged, true) {
            tracing::info!(
                slice = slice.to_string(),
                "Waiting for a run that holds the lease of this slice."
            );
        }
        tokio::select! {
            () = interrupt.cancelled() => {}
            () = tokio::time::sleep(HELD_LEASE_POLL) => {}
        }
    }
    Ok(None)
}
