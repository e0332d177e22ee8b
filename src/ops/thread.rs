//! Work that blocks, beside the runtime.

/// Does blocking work on a thread of its own. `None` if it panics, as a reader may on a file that
/// somebody damaged.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
