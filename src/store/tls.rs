//! Which cryptography TLS uses.

use rustls::crypto::{CryptoProvider, ring};

/// Chooses *ring* for the whole process, unless the program has chosen already. Every client needs
/// it, also for plain HTTP: without a choice [reqwest panics][1].
///
/// [1]: https://docs.rs/reqwest/0.13/reqwest/#optional-features
pub(crate) fn choose_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been quicker, and has chosen as well.
        drop(ring::default_provider().install_default());
    }
}
