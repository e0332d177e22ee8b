//! Blocking work beside the runtime.

/// Does blocking work on its own thread. `None` if it panics, as a reader may on a damaged file.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
