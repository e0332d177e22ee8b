//! Clients for HTTP: what holds for every server.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder};
use url::Url;

use super::location::is_loopback;
use super::tls;
use crate::TOOL;
use crate::error::chain;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for the server at `url`, to be built with [`build`].
pub(crate) fn client(url: &Url) -> ClientBuilder {
    tls::choose_provider();
    let client = Client::builder()
        .user_agent(TOOL)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        // A redirect would carry the key elsewhere; a referer would carry the query.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Retries are ours.
        .retry(reqwest::retry::never())
        .tls_version_min(reqwest::tls::Version::TLS_1_2);
    if is_loopback(url) {
        // What is meant for this machine must not leave it, by a proxy's detour, in clear.
        client.no_proxy()
    } else {
        client
    }
}

/// Builds a client.
///
/// # Errors
/// A sentence, if TLS cannot be set up.
pub(crate) fn build(client: ClientBuilder) -> Result<Client, String> {
    let failed = |error: reqwest::Error| {
        let problem = chain(&error.without_url());
        format!("cannot set up HTTPS: {problem}")
    };
    client.build().map_err(failed)
}

/// The certificates of a file, to be trusted beside those of the machine.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn root_certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("it holds no certificate in PEM".to_owned()),
    }
}
