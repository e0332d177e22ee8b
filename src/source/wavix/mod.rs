//! Asks the API for calls: which requests, and when one is sent again.

mod answers;
mod body;
mod connect;
mod limits;
mod proxy;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::civil::Date;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HeaderValue};
use reqwest::{Client, Response, StatusCode, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::{Body, Paging, Request, Source, SourceError};
use crate::body::decompress::Encoding;
use crate::body::framing::{Format, Pagination};
use crate::config::{KeySource, SourceConfig, Via};
use crate::error::{join_task, sanitized_excerpt};
use crate::lake::ledger::Asked;
use crate::privacy::Credentials;
use crate::retry::RetryReason;
use answers::{Answer, encoding, own_words, read_up_to, refuse_foreign, unasked_encoding};
use body::{Download, must_show_its_end, read_ahead, wrong_if_empty};
use connect::{Connections, client};
use limits::{Gate, Pace, http_date};

/// The API's default page size.
pub(crate) const DEFAULT_PER_PAGE: u64 = 25;

/// Calls on a page of the list when it is walked. The largest page that the API gives is not
/// documented; a server that gives less is understood all the same.
const LIST_PER_PAGE: u64 = 100;
/// Most that is held of a page: many times what a hundred calls are.
const MAX_PAGE_BYTES: usize = 2 << 20;
/// Longest answer to a question for a total: one record and the pagination.
const MAX_TOTAL_BYTES: usize = 4 << 20;

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
struct ResourceState {
    /// Whether the server has only the other of its paths.
    old: AtomicBool,
    /// Whether it has answered with success.
    served: AtomicBool,
    /// Whether it has answered 403 since.
    forbidden: AtomicBool,
}

/// The API, for one key.
#[derive(Debug)]
pub struct Api {
    client: Client,
    /// The key among them, unless no request is sent.
    credentials: Arc<Credentials>,
    config: SourceConfig,
    /// Closed while the server asks for patience.
    gate: Gate,
    pace: Pace,
    /// What is known of each resource.
    resources: [ResourceState; 3],
    /// Whether any request was answered at all.
    reached: AtomicBool,
    /// The newest key that was good for a request, by its number.
    accepted: AtomicUsize,
    /// The newest key in whose place another was looked for.
    replaced: Mutex<usize>,
    /// Whether the server has left a connection open for the next request.
    keeps_open: AtomicBool,
    /// How many responses had status 429.
    limited: AtomicU32,
    /// A client without kept-alive connections, once one of these was closed.
    fresh_client: OnceLock<Client>,
}

impl Api {
    /// A client that authenticates with `key`. Without a key it must not send requests.
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
    fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Begins to read a slice. `page` is `None` for its beginning, or the number of a page, if the
    /// list is read or the server turned out to page its stream.
    async fn calls(&self, request: Request, page: Option<u64>) -> Result<Body, SourceError> {
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
        let mut query = self.query(request);
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
            Some(self.hide_keys(value))
        };
        let format = match self.config.via {
            Via::Stream | Via::Pages => Format::Json,
            Via::Csv => Format::Csv,
        };
        if absent.is_none() {
            must_show_its_end(&response)?;
        }
        Ok(Body {
            asked: Asked {
                url: url.to_string(),
                query: self.query_for_ledger(query),
            },
            etag: header("etag"),
            last_modified: header("last-modified"),
            server_time: header("date").and_then(|date| http_date(&date)),
            made_at: None,
            encoding,
            format,
            paging: match self.config.via {
                Via::Stream | Via::Csv => Paging::Suspected,
                Via::Pages => Paging::List,
            },
            export: None,
            if_empty: match absent {
                Some(_) => None,
                None => wrong_if_empty(&response, format),
            },
            chunks: match absent {
                Some(_) => stream::empty().boxed(),
                None => Download::new(response, &self.config).chunks(),
            },
            absent,
        })
    }

    fn query(&self, request: Request) -> Vec<(String, String)> {
        let day = |day: Date| day.to_string();
        let mut query = vec![
            ("from".to_owned(), day(request.first_day)),
            ("to".to_owned(), day(request.last_day)),
            (
                "type".to_owned(),
                request.slice.direction.as_str().to_owned(),
            ),
        ];
        let filters = self.config.filters.iter().cloned();
        query.extend(filters.map(|filter| (filter.name, filter.value)));
        query
    }

    /// The query as the ledger records it: without phone numbers, which only `lake.json` may hold.
    fn query_for_ledger(&self, mut query: Vec<(String, String)>) -> Vec<(String, String)> {
        for (name, value) in &mut query {
            if self.config.number_filters().any(|it| it.name == *name) {
                "(as in lake.json)".clone_into(value);
            }
        }
        query
    }

    /// Sends a request and returns a response with status 200 or 204. On a 404, tries the path that
    /// the API had before June 2026 once.
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
        // If a path has served before, 404 does not concern the path.
        if first.status() != StatusCode::NOT_FOUND || known.served.load(Ordering::Relaxed) {
            return self.accept(first, resource).await;
        }
        let mut response = send(resource.path(!old)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let mut words = None;
            for response in [&mut first, &mut response] {
                let body = self.error_body(response).await;
                words = words
                    .or(own_words(&body).map(|words| sanitized_excerpt(&self.hide_keys(&words))));
            }
            let said = words.as_ref().map(|words| format!(": {words}"));
            let problem = format!(
                "the server has neither {} nor {} (404{}). Check source.url{}",
                resource.path(false),
                resource.path(true),
                said.unwrap_or_default(),
                match resource {
                    Resource::Stream | Resource::Csv =>
                        ", or set source.via to \"pages\" to read the list",
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
                "The server has no {} (404); using {}.",
                resource.path(old),
                resource.path(!old)
            );
        }
        Ok(response)
    }

    /// Sends a request, and once more with a new key if a key that was valid before is refused. A
    /// key that was never valid is not replaced, so that a command that prints a new key each time
    /// is not run for ever.
    async fn send(
        &self,
        path: &str,
        query: &[(String, String)],
        accept: &str,
        accept_encoding: &'static str,
    ) -> Result<Response, SourceError> {
        let send = async || {
            let generation = self.credentials.generation();
            let response = self.send_once(path, query, accept, accept_encoding).await?;
            if response.status().is_success() {
                self.accepted.fetch_max(generation, Ordering::Relaxed);
            }
            Ok::<_, SourceError>((generation, response))
        };
        let (generation, response) = send().await?;
        let was_good = self.accepted.load(Ordering::Relaxed) == generation;
        if response.status() != StatusCode::UNAUTHORIZED || !was_good {
            return Ok(response);
        }
        self.renew_key(generation).await;
        if self.credentials.generation() == generation {
            return Ok(response);
        }
        let (_, response) = send().await?;
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
            // The gate may have closed in the meantime; then all waiting requests take new turns.
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
            tracing::debug!(
                "A kept-alive connection was closed; sending the request on a new one."
            );
            self.pace.turn().await;
            answer = ask(self.fresh_client()?).await;
        }
        let response = match answer {
            Ok(response) => response.map_err(|error| self.unanswered(error))?,
            Err(_) => {
                let waited = self.config.stall_timeout;
                return Err(SourceError::transient(
                    RetryReason::Timeout,
                    format!("{} did not answer for {waited:?}", self.host()),
                ));
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
        match join_task(read).await {
            Ok(Ok(key)) => {
                if self.credentials.renew(key) {
                    tracing::warn!(
                        "The API now refuses the key. Read source.api_key again, and continuing \
                         with the new key."
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

    /// Whether a request may have failed because the server, or a proxy, closed its kept-alive
    /// connection, which does not concern the server's health.
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

    /// The text with every API key hidden.
    fn hide_keys(&self, text: &str) -> String {
        self.credentials.hide_keys(text)
    }
}

#[async_trait]
impl Source for Api {
    async fn open(&self, request: Request) -> Result<Body, SourceError> {
        self.calls(request, None).await
    }

    async fn page(&self, request: Request, page: u64) -> Result<Body, SourceError> {
        let mut body = self.calls(request, Some(page)).await?;
        if let Some(problem) = body.absent {
            return Err(SourceError::Permanent(problem));
        }
        read_ahead(&mut body, MAX_PAGE_BYTES).await?;
        Ok(body)
    }

    async fn count(&self, request: Request) -> Result<u64, SourceError> {
        #[derive(serde::Deserialize)]
        struct List {
            pagination: Pagination,
        }
        let mut query = self.query(request);
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
            let words = own_words(&body).map(|words| sanitized_excerpt(&self.hide_keys(&words)));
            let words = words.map(|words| format!(" ({words})")).unwrap_or_default();
            SourceError::Permanent(format!(
                "the answer of {path} has no number in pagination.total{words}, so there is no \
                 count to compare"
            ))
        })?;
        Ok(list.pagination.total)
    }

    fn is_fixed(&self) -> bool {
        false
    }

    fn is_cut_off(&self) -> bool {
        !self.was_reached()
    }

    fn slow_down(&self, wait: Duration) {
        self.gate.close_for(wait);
    }

    fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
}

#[cfg(test)]
mod tests;
