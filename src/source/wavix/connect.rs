//! Connections to the API: which certificates are trusted, and how long one may take.

use std::time::Duration;

use reqwest::Client;

use crate::config::SourceConfig;
use crate::source::SourceError;
use crate::store::http;

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
    let mut client = http::client(&config.url)
        // The window of one stream is that of the connection, because often there is only one.
        // The default of 2 MiB bounds a stream to 20 MB/s at a round trip of 100 ms.
        .http2_initial_connection_window_size(config.window_bytes)
        .http2_initial_stream_window_size(config.window_bytes)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .http2_keep_alive_timeout(Duration::from_secs(20));
    if connections == Connections::Fresh {
        client = client.pool_max_idle_per_host(0);
    }
    if let Some(path) = &config.ca_file {
        let certificates = http::root_certificates(path).map_err(|problem| {
            SourceError::Setup(format!("source.ca_file {}: {problem}", path.display()))
        })?;
        client = client.tls_certs_merge(certificates);
    }
    http::build(client).map_err(SourceError::Setup)
}
