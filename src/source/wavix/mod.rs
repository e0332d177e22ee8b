//! Asks the API for calls: requests, responses, and what their failures mean.

mod proxy;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderValue, LOCATION, TRANSFER_ENCODING,
};
use reqwest::{Certificate, Client, Response, StatusCode, Version};
use rustls::AlertDescription;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::retry;
use super::retry::Pace;
pub use super::retry::{Backoff, Gate};
use crate::TOOL;
use crate::body::decompress::{DecompressError, Decompressor, Encoding};
use crate::body::framing::{Format, Pagination};
use crate::cdr::slice::Slice;
use crate::config::{KeySource, SourceConfig, Via};
use crate::error::{causes, chain, joined, quoted};
use crate::lake::ledger::Asked;
use crate::privacy::Credentials;
use crate::store::location::is_loopback;
use proxy::Proxy;

/// The API's default page size.
pub const DEFAULT_PER_PAGE: u64 = 25;

/// Calls on a page of the list when it is walked. The largest page that the API gives is not documented; a
/// server that gives less is understood all the same.
const LIST_PER_PAGE: u64 = 100;
/// Attempts at what may be a passing whim of the server, or may stay: a count that does not match,
/// an answer that is not the API's.
pub const FEW_ATTEMPTS: u32 = 3;
/// So many answers that there were too many requests are no accident.
const MANY_TIMES: u32 = 3;
/// Most that is held of a page: many times what a hundred calls are.
const MAX_PAGE_BYTES: usize = 2 << 20;
/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time over which `source.min_throughput` is measured.
const THROUGHPUT_WINDOW: Duration = Duration::from_mins(2);
/// As much of an error's body as is read, and as much of its message as is shown.
const MAX_ERROR_BYTES: usize = 2 << 10;
/// Longest answer to a question for a total: one record and the pagination.
const MAX_TOTAL_BYTES: usize = 4 << 20;

/// A request failed. The texts hold no key, and of the server's words at most two kilobytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// 401, or 403 to all of a kind: no other request will fare better.
    #[error("the API answered {status}: {message}. {hint}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The server's words.
        message: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A limit is met (429), and the server asks for a wait of more than twice `source.retry_max`:
    /// until then no other request will fare better.
    #[error("{0}")]
    QuotaUsedUp(String),
    /// The configuration, or this machine, does not allow to ask at all.
    #[error("{0}")]
    Setup(String),
    /// Asking again would not help.
    #[error("{0}")]
    Permanent(String),
    /// Asking again may help.
    #[error("{problem}")]
    Transient {
        /// What happened.
        problem: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// Whether every slice should wait, not only this one.
        slow_down: bool,
    },
    /// The answer does not come from the API, but from something in between. It may go away, or not.
    #[error("{0}")]
    Foreign(String),
}

fn refusal_hint(status: StatusCode, resource: Resource) -> &'static str {
    match (status, resource) {
        (StatusCode::UNAUTHORIZED, _) => "Check that source.api_key leads to the right key",
        (_, Resource::Stream | Resource::Csv) => {
            "The key needs the scope calls:read, and the account the call log service. If only the bulk export is refused, --via pages reads the list instead"
        }
        (_, Resource::List) => {
            "The key needs the scope calls:read, and the account the call log service"
        }
    }
}

impl SourceError {
    fn transient(problem: impl Into<String>) -> Self {
        Self::Transient {
            problem: problem.into(),
            retry_after: None,
            slow_down: false,
        }
    }

    /// Whether asking again would not help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Permanent(_))
    }

    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Foreign(_))
    }
}

/// Which resource of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Stream,
    List,
    Csv,
}

impl Resource {
    fn path(self, old: bool) -> &'static str {
        match (self, old) {
            (Self::Stream, false) => "/v1/cdrs/all",
            (Self::Stream, true) => "/v1/cdr/all",
            (Self::List, false) => "/v1/cdrs",
            (Self::List, true) => "/v1/cdr",
            // The documents of June 2026, which renamed the others, still name this one.
            (Self::Csv, false) => "/v1/cdr.csv",
            (Self::Csv, true) => "/v1/cdrs.csv",
        }
    }
}

/// What the answers so far have shown of a resource.
#[derive(Debug, Default)]
struct Known {
    /// Whether the server knows it only under the other of its paths.
    old: AtomicBool,
    /// Whether it has answered with success.
    served: AtomicBool,
    /// Whether it has answered 403 since.
    forbidden: AtomicBool,
}

/// The API, for one key.
#[derive(Debug)]
pub struct Source {
    client: Client,
    /// The key among them, but for whoever never asks.
    credentials: Arc<Credentials>,
    config: SourceConfig,
    /// Closed while the server asks for patience. Shared with whoever waits between attempts.
    pub gate: Gate,
    pace: Pace,
    /// What is known of each resource.
    resources: [Known; 3],
    /// Whether any request was answered at all.
    reached: AtomicBool,
    /// The newest key that was good for a request, by its number.
    accepted: AtomicUsize,
    /// The newest key in whose place another was looked for.
    replaced: Mutex<usize>,
    /// Whether the server has left a connection open for the next request.
    keeps_open: AtomicBool,
    /// How often the server said that there were too many requests.
    limited: AtomicU32,
    /// A client without such connections, once one was no good.
    fresh_client: OnceLock<Client>,
}

impl Source {
    /// A client that authenticates with `key`. Without one it serves who has no question.
    ///
    /// # Errors
    /// [`SourceError::Setup`] if TLS cannot be set up: for want of root certificates, or because
    /// `source.ca_file` has none.
    pub fn try_new(config: &SourceConfig, key: Option<SecretString>) -> Result<Self, SourceError> {
        let client = client(config, Connections::Kept)?;
        Ok(Self {
            client,
            credentials: Arc::new(Credentials::new(key)),
            replaced: Mutex::default(),
            config: config.clone(),
            gate: Gate::default(),
            pace: Pace::new(config.requests_per_minute),
            resources: Default::default(),
            reached: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            keeps_open: AtomicBool::new(false),
            limited: AtomicU32::new(0),
            fresh_client: OnceLock::new(),
        })
    }

    /// Whether any request was answered, with whatever status.
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Begins to read a slice. `page` is `None` for its beginning, or the number of a page, if the list is
    /// read or the server turned out to page its stream.
    ///
    /// # Errors
    /// [`SourceError`]; the body's own errors come from [`Body::chunk`].
    pub async fn calls(&self, slice: Slice, page: Option<u64>) -> Result<Body, SourceError> {
        let (resource, page, per_page, accept) = match self.config.via {
            Via::Stream => (
                Resource::Stream,
                page,
                None,
                "application/x-ndjson, */*;q=0.1",
            ),
            Via::Pages => (
                Resource::List,
                page.or(Some(1)),
                Some(LIST_PER_PAGE),
                "application/json",
            ),
            Via::Csv => (Resource::Csv, page, None, "text/csv, */*;q=0.1"),
        };
        let accept_encoding = if self.config.compression {
            Encoding::ACCEPTED
        } else {
            "identity"
        };
        let mut query = self.query(slice);
        let numbers = [("page", page), ("per_page", per_page)];
        query.extend(
            numbers
                .into_iter()
                .filter_map(|(name, number)| Some((name.to_owned(), number?.to_string()))),
        );
        let (response, absent) = match self.get(resource, &query, accept, accept_encoding).await? {
            Answer::Calls(response) => (response, None),
            Answer::Absent(response, problem) => (response, Some(problem)),
        };
        if absent.is_none() {
            refuse_foreign(&response)?;
        }
        let encoding = match absent {
            Some(_) => Encoding::Identity,
            None => encoding(&response)?,
        };
        let mut url = response.url().clone();
        url.set_query(None);
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(self.printable(value))
        };
        let (etag, last_modified) = (header("etag"), header("last-modified"));
        let server_time = header("date").and_then(|date| retry::http_date(&date));
        let body = Body {
            asked: Asked {
                url: url.to_string(),
                query: without_numbers(query),
            },
            etag,
            last_modified,
            server_time,
            encoding,
            format: match self.config.via {
                Via::Stream | Via::Pages => Format::Json,
                Via::Csv => Format::Csv,
            },
            absent,
            response,
            ahead: VecDeque::new(),
            stall_timeout: self.config.stall_timeout,
            floor: ThroughputFloor::new(self.config.min_throughput),
        };
        if body.absent.is_none() {
            body.check()?;
        }
        Ok(body)
    }

    /// The provider's own count of a slice.
    ///
    /// # Errors
    /// [`SourceError`]: [`SourceError::Permanent`] if the answer holds no count.
    pub async fn control_total(&self, slice: Slice) -> Result<u64, SourceError> {
        #[derive(serde::Deserialize)]
        struct List {
            pagination: Pagination,
        }
        let mut query = self.query(slice);
        query.extend([
            ("page".to_owned(), "1".to_owned()),
            ("per_page".to_owned(), "1".to_owned()),
        ]);
        let answer = self.get(Resource::List, &query, "application/json", "identity");
        let mut response = answer.await?.calls()?;
        refuse_foreign(&response)?;
        if encoding(&response)? != Encoding::Identity {
            return Err(unasked_encoding(&response));
        }
        let body = read_up_to(&mut response, MAX_TOTAL_BYTES, self.config.stall_timeout).await?;
        let list: List = serde_json::from_slice(&body).map_err(|_| {
            let path = response.url().path();
            let words = own_words(&body).map(|words| quoted(&self.printable(&words)));
            let words = words.map(|words| format!(" ({words})")).unwrap_or_default();
            SourceError::Permanent(format!("{path} answers without a number as pagination.total{words}, so there is no count to reconcile with"))
        })?;
        Ok(list.pagination.total)
    }

    /// The same, tried again while what stands in the way may pass.
    ///
    /// # Errors
    /// [`SourceError`] of the last attempt.
    pub async fn control_total_with_retries(&self, slice: Slice) -> Result<u64, SourceError> {
        let deadline = self.deadline(Instant::now());
        self.with_retries(slice, deadline, || self.control_total(slice))
            .await
    }

    /// A page of a slice's calls, read to its end before it is given out, so that where it breaks off
    /// it alone is tried again, until `deadline`, and not all pages in front of it. Of a page longer
    /// than two megabytes the rest is read as a stream.
    ///
    /// # Errors
    /// [`SourceError`] of the last attempt.
    pub async fn page(
        &self,
        slice: Slice,
        page: u64,
        deadline: Instant,
    ) -> Result<Body, SourceError> {
        self.with_retries(slice, deadline, || self.whole_page(slice, page))
            .await
    }

    async fn whole_page(&self, slice: Slice, page: u64) -> Result<Body, SourceError> {
        let mut body = self.calls(slice, Some(page)).await?;
        body.must_be_there()?;
        body.read_ahead(MAX_PAGE_BYTES).await?;
        Ok(body)
    }

    /// When `source.max_elapsed` is used up by what began at `begun`.
    pub fn deadline(&self, begun: Instant) -> Instant {
        const FAR_AWAY: Duration = Duration::from_hours(24 * 365 * 30);
        begun + self.config.max_elapsed.min(FAR_AWAY)
    }

    /// Asks up to `source.max_attempts` times, and until `deadline`, while what stands in the way may pass; up to
    /// [`FEW_ATTEMPTS`] times while the answer is not the API's.
    async fn with_retries<T, F: Future<Output = Result<T, SourceError>>>(
        &self,
        slice: Slice,
        deadline: Instant,
        ask: impl Fn() -> F,
    ) -> Result<T, SourceError> {
        let backoff = Backoff::from(&self.config);
        let mut attempt = 1;
        let mut foreign = 0;
        loop {
            let error = match ask().await {
                Err(error) if error.is_transient() && attempt < self.config.max_attempts => error,
                result => return result,
            };
            foreign += u32::from(matches!(error, SourceError::Foreign(_)));
            if foreign == FEW_ATTEMPTS {
                return Err(error);
            }
            let (asked_for, slow_down) = match &error {
                SourceError::Transient {
                    retry_after,
                    slow_down,
                    ..
                } => (*retry_after, *slow_down),
                _ => (None, false),
            };
            let wait = backoff.wait(attempt, asked_for);
            if Instant::now() + wait > deadline {
                return Err(error);
            }
            if slow_down {
                self.gate.close_for(wait);
            }
            let problem = self.printable(&error.to_string());
            tracing::warn!(
                slice = slice.to_string(),
                attempt,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "Trying again: {problem}"
            );
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    fn query(&self, slice: Slice) -> Vec<(String, String)> {
        let day = |day: Date| day.to_string();
        let mut query = vec![
            ("from", day(slice.day)),
            ("to", day(slice.day)),
            ("type", slice.direction.as_str().to_owned()),
            // Left out, only answered calls would come.
            ("disposition", self.config.disposition.clone()),
        ];
        let filters = [
            ("sip_trunk", &self.config.sip_trunk),
            ("from_search", &self.config.from_search),
            ("to_search", &self.config.to_search),
        ];
        query.extend(
            filters
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.clone()?))),
        );
        query
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Sends a request and returns a response with status 200, or one that says that there is
    /// nothing. A 404 on a path of today is tried once on the path of before June 2026.
    async fn get(
        &self,
        resource: Resource,
        query: &[(String, String)],
        accept: &str,
        accept_encoding: &'static str,
    ) -> Result<Answer, SourceError> {
        let known = &self.resources[resource as usize];
        let old_path = &known.old;
        let old = old_path.load(Ordering::Relaxed);
        let send = |path| self.send(path, query, accept, accept_encoding);
        let mut first = send(resource.path(old)).await?;
        // Where a path has served, 404 says nothing of the path.
        if first.status() != StatusCode::NOT_FOUND || known.served.load(Ordering::Relaxed) {
            return self.accept(first, resource).await;
        }
        let mut response = send(resource.path(!old)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let mut words = None;
            for response in [&mut first, &mut response] {
                let body = self.error_body(response).await;
                words = words.or(own_words(&body).map(|words| quoted(&self.printable(&words))));
            }
            let said = words.as_ref().map(|words| format!(": {words}"));
            let problem = format!(
                "the server knows neither {} nor {} (404{}). Check source.url{}",
                resource.path(false),
                resource.path(true),
                said.unwrap_or_default(),
                match resource {
                    Resource::Stream | Resource::Csv =>
                        ", or read the list instead, with --via pages",
                    Resource::List => "",
                }
            );
            return match words {
                Some(_) => Ok(Answer::Absent(response, problem)),
                None => Err(SourceError::Permanent(problem)),
            };
        }
        let response = self.accept(response, resource).await?;
        if old_path
            .compare_exchange(old, !old, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            tracing::warn!(
                "The server does not know {} (404); {} works.",
                resource.path(old),
                resource.path(!old)
            );
        }
        Ok(response)
    }

    /// Sends a request, and once more with another key where the one that was good so far is refused.
    /// One that never was good is not replaced: who prints a new key each time must not be asked for
    /// ever.
    async fn send(
        &self,
        path: &str,
        query: &[(String, String)],
        accept: &str,
        accept_encoding: &'static str,
    ) -> Result<Response, SourceError> {
        let generation = self.credentials.generation();
        let send = || self.send_once(path, query, accept, accept_encoding);
        let response = send().await?;
        if response.status().is_success() {
            self.accepted.fetch_max(generation, Ordering::Relaxed);
        }
        let was_good = self.accepted.load(Ordering::Relaxed) == generation;
        if response.status() != StatusCode::UNAUTHORIZED || !was_good {
            return Ok(response);
        }
        self.renew_key(generation).await;
        let renewed = self.credentials.generation();
        if renewed == generation {
            return Ok(response);
        }
        let response = send().await?;
        if response.status().is_success() {
            self.accepted.fetch_max(renewed, Ordering::Relaxed);
        }
        Ok(response)
    }

    async fn send_once(
        &self,
        path: &str,
        query: &[(String, String)],
        accept: &str,
        accept_encoding: &'static str,
    ) -> Result<Response, SourceError> {
        loop {
            self.gate.pass().await;
            self.pace.turn().await;
            // It may have closed meanwhile, and then all who wait behind it take new turns.
            if self.gate.is_open() {
                break;
            }
        }
        let mut url = self.config.url.clone();
        url.set_path(&format!(
            "{}{path}",
            self.config.url.path().trim_end_matches('/')
        ));
        let ask = |client: &Client| {
            let mut request = client
                .get(url.clone())
                .query(query)
                .header(ACCEPT, accept)
                .header(ACCEPT_ENCODING, accept_encoding);
            if let Some(key) = self.credentials.key() {
                request = request.bearer_auth(key.expose_secret());
            }
            tokio::time::timeout(self.config.stall_timeout, request.send())
        };
        let mut answer = ask(&self.client).await;
        if let Ok(Err(error)) = &answer
            && self.may_have_been_worn(error)
        {
            tracing::debug!("A connection that was kept open is gone: asking on a fresh one.");
            self.pace.turn().await;
            answer = ask(self.fresh_client()?).await;
        }
        let response = match answer {
            Ok(response) => response.map_err(|error| self.unanswered(error))?,
            Err(_) => {
                let waited = self.config.stall_timeout;
                return Err(SourceError::transient(format!(
                    "{} did not answer for {waited:?}",
                    self.host()
                )));
            }
        };
        self.reached.store(true, Ordering::Relaxed);
        let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        // One connection of HTTP/2 serves all, and is not used again once it has failed.
        if response.version() == Version::HTTP_11
            && !response.headers().get(CONNECTION).is_some_and(closes)
        {
            self.keeps_open.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// Reads the key once more, for keys rotate, once in place of each that was good. A variable
    /// cannot have changed.
    async fn renew_key(&self, generation: usize) {
        let place = match &self.config.api_key {
            Some(place @ (KeySource::File(_) | KeySource::Command(_))) => place.clone(),
            Some(KeySource::Env(_)) | None => return,
        };
        let mut replaced = self.replaced.lock().await;
        // Others that were refused have waited here.
        if *replaced >= generation {
            return;
        }
        let read = tokio::task::spawn_blocking(move || place.read("source.api_key"));
        match joined(read).await {
            Ok(Ok(key)) => {
                if self.credentials.renew(key) {
                    tracing::warn!(
                        "The API refuses the key that was good so far. Going on with another one: source.api_key was read once more."
                    );
                }
            }
            Ok(Err(problem)) => tracing::warn!(
                "The API refuses the key that was good so far, and there is no other: {problem}"
            ),
            Err(panicked) => tracing::warn!("{panicked}"),
        }
        *replaced = generation;
    }

    /// Whether a request may have failed because its connection was used before, and the server, or
    /// something in between, had given it up: that says nothing of the server.
    fn may_have_been_worn(&self, error: &reqwest::Error) -> bool {
        let has_broken_off = error.is_request() && !error.is_connect() && !error.is_timeout();
        has_broken_off && self.keeps_open.load(Ordering::Relaxed)
    }

    fn fresh_client(&self) -> Result<&Client, SourceError> {
        if let Some(client) = self.fresh_client.get() {
            return Ok(client);
        }
        let client = client(&self.config, Connections::Fresh)?;
        Ok(self.fresh_client.get_or_init(|| client))
    }

    fn host(&self) -> String {
        let url = &self.config.url;
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        format!("{}{port}", url.host_str().unwrap_or_default())
    }

    /// What it means that a request got no response.
    fn unanswered(&self, error: reqwest::Error) -> SourceError {
        let error = error.without_url();
        // The layers in between say no more than "error sending request".
        let cause = causes(&error)
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        let host = self.host();
        let problem = format!("cannot reach {host}: {cause}");
        match tls_cause(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => SourceError::Permanent(format!(
                "{problem}. Its certificate cannot be trusted from here: check source.url and this machine's clock; if the network has an authority of its own, name its certificate as source.ca_file"
            )),
            Some(
                rustls::Error::PeerIncompatible(_)
                | rustls::Error::InvalidMessage(_)
                | rustls::Error::AlertReceived(
                    AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
                ),
            ) => SourceError::Permanent(format!(
                "{problem}. It does not speak TLS 1.2 or newer: check source.url and what lies in between"
            )),
            // What has answered is where source.url says.
            _ if self.was_reached() && error.is_connect() => {
                let way = self.proxy().map(|Proxy { variable, address }| {
                    format!(" by way of the proxy {address} ({variable})")
                });
                let way = way.unwrap_or_default();
                SourceError::transient(format!("no connection to {host}{way} any more: {cause}"))
            }
            _ if self.was_reached() => SourceError::transient(format!(
                "the connection to {host} ended before an answer: {cause}"
            )),
            _ => SourceError::transient(match self.proxy() {
                Some(Proxy { variable, address }) => format!(
                    "cannot reach {} by way of the proxy {address} ({variable}): {cause}. Check that variable and the proxy; no_proxy names hosts that need none",
                    self.host()
                ),
                None => format!("{problem}. Check source.url and the network"),
            }),
        }
    }

    /// The proxy in front of the API.
    fn proxy(&self) -> Option<Proxy> {
        if is_loopback(&self.config.url) {
            return None;
        }
        Proxy::of(&self.config.url, |name| std::env::var(name).ok())
    }

    /// Passes a response with status 200 on, and turns any other into what it means.
    async fn accept(
        &self,
        mut response: Response,
        resource: Resource,
    ) -> Result<Answer, SourceError> {
        let status = response.status();
        let known = &self.resources[resource as usize];
        if status.is_success() {
            known.served.store(true, Ordering::Relaxed);
            known.forbidden.store(false, Ordering::Relaxed);
        }
        if status == StatusCode::OK {
            return Ok(Answer::Calls(response));
        }
        if status == StatusCode::NO_CONTENT {
            let problem = format!("the API answered {status}");
            return Ok(Answer::Absent(response, problem));
        }
        if status.is_redirection() {
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|location| location.to_str().ok());
            let target = target.and_then(|location| response.url().join(location).ok());
            // To whom the address is right already, another place on that host is no help.
            let own = self.config.url.origin();
            if let Some(url) = target.as_ref().filter(|url| url.origin() == own) {
                let path = quoted(&self.printable(url.path()));
                return Err(SourceError::Permanent(format!(
                    "the API answered {status}, pointing to {path} on the same host. Redirects are not followed: check the path in source.url, and what lies between here and the API"
                )));
            }
            let target = target.map_or_else(
                || "nowhere".to_owned(),
                |url| url.origin().ascii_serialization(),
            );
            return Err(SourceError::Permanent(format!(
                "the API answered {status}, pointing to {target}. Redirects are not followed, for they would carry the key along: set source.url to the right address"
            )));
        }
        let now = Timestamp::now();
        let is_limited = status == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = retry::asked_for(response.headers(), now, is_limited);
        let body = self.error_body(&mut response).await;
        let message = self.server_message(&body);
        if status == StatusCode::NOT_FOUND && own_words(&body).is_some() {
            let problem = format!("the API answered {status}: {message}");
            return Ok(Answer::Absent(response, problem));
        }
        Err(match status.as_u16() {
            // One day may be forbidden to a key that is good for others. The next one shows.
            403 if known.served.load(Ordering::Relaxed)
                && !known.forbidden.swap(true, Ordering::Relaxed) =>
            {
                SourceError::Permanent(format!(
                    "the API answered {status}: {message}. It has accepted the key for other requests: ask the provider what this day needs"
                ))
            }
            401 | 403 => SourceError::Refused {
                status,
                message,
                hint: refusal_hint(status, resource),
            },
            408 | 409 | 425 | 429 | 500.. => {
                let mut problem = format!("the API answered {status}: {message}");
                let longest = self.config.retry_max;
                // A little more is waited for: what says 61 seconds means a minute.
                let most = longest.saturating_mul(2);
                if let Some(wait) = retry_after.filter(|wait| *wait > most) {
                    let until = retry::describe_until(now, wait, TimeZone::system());
                    let problem = format!(
                        "{problem}. It asks to wait until {until}, and source.retry_max is {longest:?}"
                    );
                    // Only a limit is the account's. Everything else may be of this day alone.
                    return Err(if is_limited {
                        SourceError::QuotaUsedUp(format!(
                            "{problem}. What is done stays done: run again then"
                        ))
                    } else {
                        SourceError::Permanent(format!("{problem}. Run again then"))
                    });
                }
                let times = self
                    .limited
                    .fetch_add(u32::from(is_limited), Ordering::Relaxed)
                    + 1;
                if is_limited && times >= MANY_TIMES {
                    problem = format!(
                        "{problem}. It has said so {times} times: lower source.requests, or set source.requests_per_minute"
                    );
                }
                SourceError::Transient {
                    problem,
                    slow_down: is_limited || retry_after.is_some(),
                    retry_after,
                }
            }
            _ => SourceError::Permanent(format!("the API answered {status}: {message}")),
        })
    }

    /// The beginning of an error's body, as far as it can be read.
    async fn error_body(&self, response: &mut Response) -> Vec<u8> {
        let body = read_up_to(response, MAX_ERROR_BYTES, self.config.stall_timeout).await;
        beginning(response, &body.unwrap_or_default())
    }

    /// The server's words from an error's body: its own, or else the beginning.
    fn server_message(&self, body: &[u8]) -> String {
        let message = own_words(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        let message = quoted(&self.printable(&message));
        if message.is_empty() {
            "(no message)".to_owned()
        } else {
            message
        }
    }

    /// A text without the key, should it be in there.
    pub fn printable(&self, text: &str) -> String {
        self.credentials.printable(text)
    }

    /// What nothing that is kept may hold, the key among it.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
}

/// An answer that is no error by itself.
#[derive(Debug)]
enum Answer {
    /// 200.
    Calls(Response),
    /// There is nothing, and what that means where there should be something.
    Absent(Response, String),
}

impl Answer {
    /// The response, where there has to be one.
    fn calls(self) -> Result<Response, SourceError> {
        match self {
            Self::Calls(response) => Ok(response),
            Self::Absent(_, problem) => Err(SourceError::Permanent(problem)),
        }
    }
}

/// The body of a streamed response.
#[derive(Debug)]
pub struct Body {
    /// What was asked, for the ledger.
    pub asked: Asked,
    /// The response's `ETag`, for the record.
    pub etag: Option<String>,
    /// The response's `Last-Modified`, for the record.
    pub last_modified: Option<String>,
    /// When the response began, by the server's clock.
    pub server_time: Option<Timestamp>,
    /// How the bytes of its [chunks](Self::chunk) are compressed.
    pub encoding: Encoding,
    /// What they are, decompressed.
    pub format: Format,
    /// What the answer was, where it is none of calls: 204, or a 404 in the API's own words. It has
    /// no bytes then, and means a day without calls if the provider counts none.
    pub absent: Option<String>,
    response: Response,
    /// Read before it was asked for.
    ahead: VecDeque<Bytes>,
    stall_timeout: Duration,
    floor: ThroughputFloor,
}

impl Body {
    /// Refuses an answer that there are no calls, where there should be some.
    ///
    /// # Errors
    /// [`SourceError::Permanent`]: asking again would not help.
    fn must_be_there(&self) -> Result<(), SourceError> {
        match &self.absent {
            Some(problem) => Err(SourceError::Permanent(problem.clone())),
            None => Ok(()),
        }
    }

    /// Refuses what could be cut without anyone noticing.
    fn check(&self) -> Result<(), SourceError> {
        let headers = self.response.headers();
        let chunked = headers
            .get(TRANSFER_ENCODING)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().ends_with(b"chunked"));
        let is_framed = chunked
            || headers.contains_key(CONTENT_LENGTH)
            || self.response.version() >= Version::HTTP_2;
        if !is_framed {
            return Err(SourceError::Foreign(
                "the answer has neither a length nor chunks, so that a cut stream would look complete. A proxy in between may be the cause".to_owned(),
            ));
        }
        Ok(())
    }

    /// The next bytes, or `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`SourceError::Transient`] if the body breaks off, stalls or drips.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        match self.ahead.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.next_chunk().await,
        }
    }

    /// Reads up to its end, or until `limit_bytes` are held.
    async fn read_ahead(&mut self, limit_bytes: usize) -> Result<(), SourceError> {
        let mut held_bytes = 0;
        while held_bytes < limit_bytes
            && let Some(chunk) = self.next_chunk().await?
        {
            held_bytes += chunk.len();
            self.ahead.push_back(chunk);
        }
        Ok(())
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.absent.is_some() {
            return Ok(None);
        }
        let begun = Instant::now();
        let chunk = match tokio::time::timeout(self.stall_timeout, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| {
                SourceError::transient(format!(
                    "the stream broke off: {}",
                    chain(&error.without_url())
                ))
            })?,
            Err(_) => {
                let waited = self.stall_timeout;
                return Err(SourceError::transient(format!(
                    "the stream stalled: no byte for {waited:?} (source.stall_timeout)"
                )));
            }
        };
        if let Some(chunk) = &chunk {
            self.floor.check(chunk.len(), begun.elapsed())?;
        }
        Ok(chunk)
    }

    /// Whether a body of which nothing is left, decompressed, is a day without calls.
    ///
    /// # Errors
    /// [`SourceError::Foreign`] if it is not marked as records.
    pub fn may_be_empty(&self) -> Result<(), SourceError> {
        if self.absent.is_some() {
            return Ok(());
        }
        let marked = match self.format {
            Format::Json | Format::Lines => "json",
            Format::Csv => "csv",
        };
        if content_type(&self.response).is_none_or(|content_type| content_type.contains(marked)) {
            return Ok(());
        }
        Err(SourceError::Foreign(
            "the answer is empty and not marked as records: a proxy in between may have made it"
                .to_owned(),
        ))
    }
}

/// Notices a stream that never stalls and never gets anywhere. Counts only time spent waiting for
/// the network: a slow disk here is not the server's fault.
#[derive(Debug)]
struct ThroughputFloor {
    bytes_per_second: u64,
    bytes: u64,
    waited: Duration,
}

impl ThroughputFloor {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    fn check(&mut self, bytes: usize, waited: Duration) -> Result<(), SourceError> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < THROUGHPUT_WINDOW {
            return Ok(());
        }
        let needed = self.bytes_per_second.saturating_mul(self.waited.as_secs());
        if self.bytes < needed {
            let problem = format!(
                "the stream drips: {} bytes in {:?}, less than source.min_throughput",
                self.bytes, THROUGHPUT_WINDOW
            );
            return Err(SourceError::transient(problem));
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

/// What the API itself says in an answer that holds no calls: `message` of its JSON, `error`, or its
/// `message`.
fn own_words(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let words = ["/message", "/error", "/error/message"].into_iter();
    let mut words = words.filter_map(|place| json.pointer(place)?.as_str());
    words.next().map(str::to_owned)
}

/// The query for the ledger, which is no place for phone numbers: `lake.json` holds the filters.
fn without_numbers(mut query: Vec<(String, String)>) -> Vec<(String, String)> {
    for (name, value) in &mut query {
        if name.ends_with("_search") {
            "(as in lake.json)".clone_into(value);
        }
    }
    query
}

fn content_type(response: &Response) -> Option<String> {
    Some(
        response
            .headers()
            .get(CONTENT_TYPE)?
            .to_str()
            .ok()?
            .to_ascii_lowercase(),
    )
}

/// How an answer is compressed.
fn encoding(response: &Response) -> Result<Encoding, SourceError> {
    Encoding::from_name(&encoding_name(response)).ok_or_else(|| unasked_encoding(response))
}

fn unasked_encoding(response: &Response) -> SourceError {
    SourceError::Permanent(format!(
        "the answer is compressed ({}), which was not asked for. A proxy in between may be the cause",
        quoted(&encoding_name(response))
    ))
}

/// The beginning of what a compressed body says, as far as it can be read.
fn beginning(response: &Response, body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(encoding) = encoding(response) {
        let mut decompressor = Decompressor::new(encoding);
        // It may be cut or worse: what came out before is better than nothing.
        let _cut = decompressor.push(body, |bytes| {
            let room = MAX_ERROR_BYTES.saturating_sub(text.len());
            text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            Ok::<(), DecompressError>(())
        });
    }
    text
}

/// Every `Content-Encoding` of an answer: one may be put upon another.
fn encoding_name(response: &Response) -> String {
    let names = response.headers().get_all(CONTENT_ENCODING).iter();
    let names = names.map(|name| String::from_utf8_lossy(name.as_bytes()).trim().to_owned());
    names.collect::<Vec<_>>().join(", ")
}

/// Refuses answers that the API does not give: web pages.
fn refuse_foreign(response: &Response) -> Result<(), SourceError> {
    match content_type(response) {
        Some(content_type) if content_type.contains("html") || content_type.contains("xml") => {
            Err(SourceError::Foreign(format!(
                "the answer is a web page ({}), not records: a proxy or firewall in between, or a wrong source.url",
                quoted(&content_type)
            )))
        }
        _ => Ok(()),
    }
}

/// The beginning of a body, at most `limit` bytes, within `timeout`: these are small answers, and one
/// that drips must not hold up a slice.
async fn read_up_to(
    response: &mut Response,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, SourceError> {
    let read = async {
        let mut body = BytesMut::new();
        while body.len() < limit
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
        }
        Ok::<Bytes, reqwest::Error>(body.freeze())
    };
    match tokio::time::timeout(timeout, read).await {
        Ok(body) => body.map_err(|error| {
            SourceError::transient(format!(
                "the answer broke off: {}",
                chain(&error.without_url())
            ))
        }),
        Err(_) => Err(SourceError::transient(format!(
            "the answer was not complete after {timeout:?} (source.stall_timeout)"
        ))),
    }
}

/// What TLS found wrong, if it was TLS.
fn tls_cause(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| {
        let mut cause = Some(cause);
        while let Some(found) = cause {
            if let Some(found) = found.downcast_ref() {
                return Some(found);
            }
            // An I/O error wraps others without naming them as its source, itself among them.
            let wrapped = found.downcast_ref::<std::io::Error>();
            cause = wrapped
                .and_then(std::io::Error::get_ref)
                .map(|wrapped| wrapped as _);
        }
        None
    })
}

/// What becomes of connections that a server leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connections {
    /// They serve the next request.
    Kept,
    /// Every request has its own.
    Fresh,
}

fn client(config: &SourceConfig, connections: Connections) -> Result<Client, SourceError> {
    let mut client = Client::builder()
        .user_agent(TOOL)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_drips_is_given_up_and_one_that_waits_for_us_is_not() {
        let drip = |bytes, seconds| {
            let mut floor = ThroughputFloor::new(1 << 10);
            let mut drops = 0..1_000_u32;
            let given_up = drops.find(|_| {
                let waited = Duration::from_secs(seconds);
                floor.check(bytes, waited).is_err()
            });
            given_up.map(|drops| u64::from(drops + 1) * seconds)
        };
        // A byte less than a kibibyte a second, over two minutes; never a stall.
        assert_eq!(drip(1023, 1), Some(120));
        assert_eq!(drip(1, 59), Some(177));
        assert_eq!(drip(1024, 1), None);
        // However few bytes there are: the network was not waited for.
        assert_eq!(drip(1, 0), None);
        let mut unlimited = ThroughputFloor::new(0);
        assert!(unlimited.check(0, THROUGHPUT_WINDOW).is_ok());
    }
}
