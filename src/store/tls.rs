//! The cryptography of TLS.

use rustls::crypto::{CryptoProvider, ring};

/// Selects *ring* for the whole process, unless a provider is already set. Every client needs one,
/// even for plain HTTP: without it [reqwest panics][1].
///
/// [1]: https://docs.rs/reqwest/0.13/reqwest/#optional-features
pub(crate) fn choose_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have set one meanwhile.
        drop(ring::default_provider().install_default());
    }
}
