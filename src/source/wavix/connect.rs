//! Connections to the API: which certificates are trusted, and how long one may take.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client};

use crate::TOOL;
use crate::config::SourceConfig;
use crate::error::chain;
use crate::source::SourceError;
use crate::store::location::is_loopback;
use crate::store::tls;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What becomes of connections that a server leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    /// They serve the next request.
    Kept,
    /// Every request has its own.
    Fresh,
}

pub(super) fn client(
    config: &SourceConfig,
    connections: Connections,
) -> Result<Client, SourceError> {
    tls::choose_provider();
    let mut client = Client::builder()
        .user_agent(TOOL)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        // The window of one stream is that of the connection, because often there is only one.
        // The default of 2 MiB bounds a stream to 20 MB/s at a round trip of 100 ms.
        .http2_initial_connection_window_size(config.window_bytes)
        .http2_initial_stream_window_size(config.window_bytes)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        // A redirect would carry the key elsewhere; a referer would carry the query.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Retries are ours: they restart a slice.
        .retry(reqwest::retry::never())
        .tls_version_min(reqwest::tls::Version::TLS_1_2);
    if connections == Connections::Fresh {
        client = client.pool_max_idle_per_host(0);
    }
    if is_loopback(&config.url) {
        // What is meant for this machine must not leave it, by a proxy's detour, in clear.
        client = client.no_proxy();
    }
    if let Some(path) = &config.ca_file {
        client = client.tls_certs_merge(root_certificates(path)?);
    }
    client.build().map_err(|error| {
        SourceError::Setup(format!(
            "cannot set up HTTPS: {}",
            chain(&error.without_url())
        ))
    })
}

/// The certificates of `source.ca_file`, which are trusted beside those of the machine.
fn root_certificates(path: &Path) -> Result<Vec<Certificate>, SourceError> {
    let wrong = |problem: String| {
        SourceError::Setup(format!("source.ca_file {}: {problem}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(wrong("it holds no certificate in PEM".to_owned())),
    }
}
