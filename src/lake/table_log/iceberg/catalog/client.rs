//! Requests to a REST catalog.
//! <https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml>

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;
use url::Url;

use super::CatalogOptions;
use crate::error::{chain, sanitized_excerpt};
use crate::lake::table_log::iceberg::avro::Problem;
use crate::lake::table_log::iceberg::metadata::Metadata;
use crate::retry::{Retry, RetryPolicy};
use crate::store::http;

/// Time for one request and its answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer. Metadata has some hundred bytes for each snapshot.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Separates the levels of a namespace in a path.
const LEVEL_SEPARATOR: &str = "\u{1f}";
/// The status of some catalogs for a token that has expired.
const TOKEN_EXPIRED: u16 = 419;

/// A catalog refused a request, or could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} in the Iceberg catalog {url}: {problem}. {remedy}")]
pub struct CatalogError {
    url: Box<str>,
    action: Box<str>,
    problem: Box<str>,
    remedy: &'static str,
}

impl CatalogError {
    pub(super) fn new(url: &Url, action: &str, problem: &str, remedy: &'static str) -> Self {
        Self {
            url: url.as_str().into(),
            action: action.into(),
            problem: problem.into(),
            remedy,
        }
    }

    /// The same error, which also tells that the catalog refused something else before.
    pub(super) fn after(self, earlier: &Self) -> Self {
        let Self { problem, .. } = &self;
        let problem = format!(
            "{problem}. Before, it refused to {}: {}",
            earlier.action, earlier.problem
        );
        Self {
            problem: problem.into(),
            ..self
        }
    }
}

/// What is sent to a server.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) token: Option<SecretString>,
    pub(crate) body: Option<(&'static str, SecretString)>,
}

/// The answer of a server.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Sends requests.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// # Errors
    /// Why there is no whole answer. The server may have done what was asked.
    async fn send(&self, request: Request) -> Result<Answer, String>;
}

/// The network.
pub(super) struct Network(reqwest::Client);

impl Network {
    pub(super) fn new(url: &Url) -> Result<Self, String> {
        http::build(http::client(url).timeout(TIMEOUT)).map(Self)
    }
}

#[async_trait]
impl Transport for Network {
    async fn send(&self, request: Request) -> Result<Answer, String> {
        let Request {
            method,
            url,
            token,
            body,
        } = request;
        let mut sent = self.0.request(method, url);
        sent = sent.header(ACCEPT, "application/json");
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
            let mut value = value.map_err(|_| "the token has invalid characters".to_owned())?;
            value.set_sensitive(true);
            sent = sent.header(AUTHORIZATION, value);
        }
        if let Some((kind, body)) = body {
            let body = body.expose_secret().to_owned();
            sent = sent.header(CONTENT_TYPE, kind).body(body);
        }
        let broken = |error: reqwest::Error| chain(&error.without_url());
        let mut response = sent.send().await.map_err(broken)?;
        let status = response.status();
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err("the answer is longer than 64 MiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        let body = body.freeze();
        Ok(Answer { status, body })
    }
}

/// What a process knows once it is connected.
#[derive(Clone)]
struct Session {
    token: Option<SecretString>,
    prefix: Vec<String>,
}

/// A table in a catalog.
pub(super) struct Client {
    options: CatalogOptions,
    transport: Arc<dyn Transport>,
    session: Mutex<Option<Session>>,
    /// Texts that must never be shown.
    secrets: std::sync::Mutex<Vec<SecretString>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.options.url).finish()
    }
}

/// What became of a change.
pub(super) enum Change {
    /// The catalog made it, and answered this.
    Done(Answer),
    /// It may or may not have been made, or another change came first. Read the table again.
    Unclear(CatalogError),
    /// The catalog does not do this for this table.
    Unsupported(CatalogError),
}

impl Change {
    /// The same, whose error also tells that the catalog refused something else before.
    pub(super) fn after(self, earlier: &CatalogError) -> Self {
        match self {
            Self::Done(answer) => Self::Done(answer),
            Self::Unclear(error) => Self::Unclear(error.after(earlier)),
            Self::Unsupported(error) => Self::Unsupported(error.after(earlier)),
        }
    }
}

impl Client {
    pub(super) fn new(options: CatalogOptions, transport: Arc<dyn Transport>) -> Self {
        Self {
            options,
            transport,
            session: Mutex::default(),
            secrets: std::sync::Mutex::default(),
        }
    }

    /// The table's name with its namespace.
    pub(super) fn name(&self) -> String {
        format!(
            "{}.{}",
            self.options.namespace.join("."),
            self.options.table
        )
    }

    pub(super) fn url(&self) -> &Url {
        &self.options.url
    }

    /// An error of this catalog.
    pub(super) fn failed(&self, action: &str, problem: &str, remedy: &'static str) -> CatalogError {
        let mut problem = problem.to_owned();
        for secret in &*self.secrets.lock().expect(NEVER_POISONED) {
            problem = problem.replace(secret.expose_secret(), "[credential]");
        }
        let problem = sanitized_excerpt(&problem);
        let problem = problem.trim_end_matches('.');
        CatalogError::new(&self.options.url, action, problem, remedy)
    }

    fn hide(&self, secret: &str) {
        if !secret.is_empty() {
            let mut secrets = self.secrets.lock().expect(NEVER_POISONED);
            secrets.push(SecretString::from(secret));
        }
    }

    fn refused(&self, action: &str, answer: &Answer) -> CatalogError {
        #[derive(Deserialize)]
        struct Refusal {
            error: Reason,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Reason {
            Iceberg { message: String },
            OAuth(String),
        }
        let words = match serde_json::from_slice(&answer.body) {
            Ok(Refusal {
                error: Reason::Iceberg { message } | Reason::OAuth(message),
            }) => format!(": {message}"),
            Err(_) => String::new(),
        };
        let remedy = match answer.status.as_u16() {
            401 | 403 | TOKEN_EXPIRED => {
                "Check lake.iceberg.catalog.credential, its scope, and its rights in the catalog"
            }
            429 | 500.. => LATER,
            _ => "Check the keys of lake.iceberg.catalog",
        };
        self.failed(action, &format!("{}{words}", answer.status), remedy)
    }

    fn address(&self, segments: impl IntoIterator<Item = String>) -> Url {
        let mut url = self.options.url.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .push("v1")
            .extend(segments);
        url
    }

    /// Connects: obtains a token, and the prefix of the warehouse.
    async fn session(&self) -> Result<Session, CatalogError> {
        let mut known = self.session.lock().await;
        if let Some(session) = &*known {
            return Ok(session.clone());
        }
        let token = self.token().await?;
        let mut url = self.address(["config".to_owned()]);
        if let Some(warehouse) = &self.options.warehouse {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let request = || Request {
            method: Method::GET,
            url: url.clone(),
            token: token.clone(),
            body: None,
        };
        let action = "read the configuration";
        let answer = self.patient(action, request).await?;
        if !answer.status.is_success() {
            return Err(self.refused(action, &answer));
        }
        let config: Json = self.parse(action, &answer)?;
        let of = |part: &str| config[part]["prefix"].as_str();
        let prefix = of("overrides").or(of("defaults")).unwrap_or_default();
        let prefix = prefix.split('/').filter(|part| !part.is_empty());
        let prefix = prefix.map(str::to_owned).collect();
        let session = Session { token, prefix };
        *known = Some(session.clone());
        Ok(session)
    }

    /// A token: the credential itself, or what the catalog gives for it.
    /// <https://datatracker.ietf.org/doc/html/rfc6749#section-4.4>
    async fn token(&self) -> Result<Option<SecretString>, CatalogError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
        }
        let action = "obtain a token";
        let Some(credential) = &self.options.credential else {
            return Ok(None);
        };
        let credential = (credential.0)();
        let credential = credential.map_err(|problem| self.failed(action, &problem, CREDENTIAL))?;
        self.hide(credential.expose_secret());
        let Some((id, secret)) = credential.expose_secret().split_once(':') else {
            return Ok(Some(credential));
        };
        self.hide(secret);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", id)
            .append_pair("client_secret", secret)
            .append_pair("scope", &self.options.scope)
            .finish();
        let url = match &self.options.token_url {
            Some(url) => url.clone(),
            None => self.address(["oauth".to_owned(), "tokens".to_owned()]),
        };
        let request = || Request {
            method: Method::POST,
            url: url.clone(),
            token: None,
            body: Some((FORM, SecretString::from(form.clone()))),
        };
        let answer = self.patient(action, request).await?;
        if !answer.status.is_success() {
            let mut error = self.refused(action, &answer);
            if answer.status.is_client_error() {
                error.remedy = CREDENTIAL;
            }
            return Err(error);
        }
        let Granted { access_token } = self.parse(action, &answer)?;
        self.hide(&access_token);
        Ok(Some(SecretString::from(access_token)))
    }

    fn parse<T: serde::de::DeserializeOwned>(
        &self,
        action: &str,
        answer: &Answer,
    ) -> Result<T, CatalogError> {
        serde_json::from_slice(&answer.body)
            // Its text could quote a token.
            .map_err(|_| self.failed(action, "the answer is not what a catalog sends", ADDRESS))
    }

    /// Sends a request without effects until it has an answer.
    async fn patient(
        &self,
        action: &str,
        request: impl Fn() -> Request,
    ) -> Result<Answer, CatalogError> {
        let mut retry = Retry::new(RetryPolicy::STORE, None);
        loop {
            let answer = self.transport.send(request()).await;
            let is_final = matches!(&answer, Ok(answer) if !is_transient(answer.status));
            if !is_final && retry.wait_for_next().await {
                continue;
            }
            return answer.map_err(|problem| self.failed(action, &problem, LATER));
        }
    }

    /// Sends a request to the catalog, with a new token if the first one is refused.
    async fn send(
        &self,
        action: &str,
        method: &Method,
        path: &[&str],
        body: Option<&Json>,
    ) -> Result<Result<Answer, CatalogError>, CatalogError> {
        let mut is_renewed = false;
        loop {
            let Session { token, prefix } = self.session().await?;
            let path = path.iter().map(|part| (*part).to_owned());
            let url = self.address(prefix.into_iter().chain(path));
            let request = || Request {
                method: method.clone(),
                url: url.clone(),
                token: token.clone(),
                body: body.map(|body| (JSON, SecretString::from(body.to_string()))),
            };
            let answer = if *method == Method::GET {
                self.patient(action, request).await?
            } else {
                match self.transport.send(request()).await {
                    Ok(answer) => answer,
                    Err(problem) => return Ok(Err(self.failed(action, &problem, LATER))),
                }
            };
            let is_expired = matches!(answer.status.as_u16(), 401 | TOKEN_EXPIRED);
            if is_expired && token.is_some() && !std::mem::replace(&mut is_renewed, true) {
                *self.session.lock().await = None;
                continue;
            }
            return Ok(Ok(answer));
        }
    }

    fn namespace(&self) -> String {
        self.options.namespace.join(LEVEL_SEPARATOR)
    }

    /// The table's metadata; `None` if the catalog has no such table.
    pub(super) async fn table(&self) -> Result<Option<Metadata>, CatalogError> {
        let action = format!("read {}", self.name());
        let namespace = self.namespace();
        let path = ["namespaces", &namespace, "tables", &self.options.table];
        let answer = self.send(&action, &Method::GET, &path, None).await??;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => self.parse_table(&action, &answer).map(Some),
            _ => Err(self.refused(&action, &answer)),
        }
    }

    /// The metadata of the table that the catalog answered.
    fn parse_table(&self, action: &str, answer: &Answer) -> Result<Metadata, CatalogError> {
        #[derive(Deserialize)]
        struct Loaded<'a> {
            #[serde(borrow)]
            metadata: &'a serde_json::value::RawValue,
        }
        let wrong = |problem: &str| self.failed(action, problem, OTHER_TABLE);
        let loaded: Loaded<'_> = serde_json::from_slice(&answer.body)
            .map_err(|_| self.failed(action, "the answer is not a table", ADDRESS))?;
        let metadata = Metadata::parse(loaded.metadata.get().as_bytes());
        metadata.map_err(|problem| match problem {
            Problem::Damaged(problem) => wrong(&problem),
            Problem::Unsupported(feature) => wrong(&format!("the table uses {feature}")),
        })
    }

    async fn change(
        &self,
        action: &str,
        path: &[&str],
        body: &Json,
    ) -> Result<Change, CatalogError> {
        let answer = match self.send(action, &Method::POST, path, Some(body)).await? {
            Ok(answer) => answer,
            Err(error) => return Ok(Change::Unclear(error)),
        };
        let error = || self.refused(action, &answer);
        match answer.status.as_u16() {
            200..=299 => Ok(Change::Done(answer)),
            400 | 405 | 406 | 501 => Ok(Change::Unsupported(error())),
            409 => Ok(Change::Unclear(error())),
            _ if is_transient(answer.status) => Ok(Change::Unclear(error())),
            _ => Err(error()),
        }
    }

    /// Creates the namespace and those above it, if they are missing.
    pub(super) async fn create_namespace(&self) -> Result<(), CatalogError> {
        let action = format!("create the namespace of {}", self.name());
        let levels = &self.options.namespace;
        for depth in 1..=levels.len() {
            let levels = &levels[..depth];
            let path = ["namespaces", &levels.join(LEVEL_SEPARATOR)];
            let found = self.send(&action, &Method::GET, &path, None).await??;
            if found.status.is_success() {
                continue;
            }
            if found.status != StatusCode::NOT_FOUND {
                return Err(self.refused(&action, &found));
            }
            let body = json!({"namespace": levels, "properties": {}});
            match self.change(&action, &["namespaces"], &body).await? {
                // If another process created it, the next request succeeds.
                Change::Done(_) | Change::Unclear(_) => {}
                Change::Unsupported(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes the table of a metadata file known to the catalog.
    pub(super) async fn register(&self, metadata_file: &str) -> Result<Change, CatalogError> {
        let action = format!("register {}", self.name());
        let path = ["namespaces", &self.namespace(), "register"];
        let body = json!({"name": self.options.table, "metadata-location": metadata_file});
        self.change(&action, &path, &body).await
    }

    /// Prepares a table, which does not exist until its first commit. Returns its metadata so far,
    /// or why there is none.
    pub(super) async fn stage(
        &self,
        log: &Metadata,
    ) -> Result<Result<Metadata, Change>, CatalogError> {
        let action = format!("create {}", self.name());
        let path = ["namespaces", &self.namespace(), "tables"];
        let mut properties = log.properties.clone();
        properties.insert("format-version".to_owned(), log.format_version.to_string());
        // The location comes later: some catalogs prepare no table outside of their warehouse.
        let body = json!({
            "name": self.options.table,
            "schema": log.schema(),
            // A catalog that keeps it numbers the specifications from it on.
            "partition-spec": log.specs_up_to_default().first(),
            "properties": properties,
            "stage-create": true,
        });
        match self.change(&action, &path, &body).await? {
            Change::Done(answer) => self.parse_table(&action, &answer).map(Ok),
            change => Ok(Err(change)),
        }
    }

    /// Commits to the table, if the requirements are fulfilled.
    pub(super) async fn commit(
        &self,
        requirements: &Json,
        updates: &[Json],
    ) -> Result<Change, CatalogError> {
        let action = format!("commit to {}", self.name());
        let CatalogOptions {
            namespace, table, ..
        } = &self.options;
        let path = ["namespaces", &self.namespace(), "tables", table];
        let body = json!({
            "identifier": {"namespace": namespace, "name": table},
            "requirements": requirements,
            "updates": updates,
        });
        self.change(&action, &path, &body).await
    }
}

/// Whether a later request may succeed.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const NEVER_POISONED: &str = "no code panics while it holds the lock";

/// What helps when the catalog is away.
pub(super) const LATER: &str =
    "The lake and its log are complete; the next run, or a sync of the lake, updates the catalog";
const CREDENTIAL: &str = "Check lake.iceberg.catalog.credential and lake.iceberg.catalog.scope";
const ADDRESS: &str = "Check lake.iceberg.catalog.url: it ends before /v1";
/// What helps when the table is not the lake's.
pub(super) const OTHER_TABLE: &str = "Nothing was changed. Choose another \
    lake.iceberg.catalog.table, or drop that table from the catalog without its files";
