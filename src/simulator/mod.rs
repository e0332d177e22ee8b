//! A simulated Wavix API with streams, pages, totals, errors, and faults on request.
//!
//! Implements the parts of the API for calls: the stream (`/v1/cdrs/all`), the paginated list
//! (`/v1/cdrs`), the paths used before June 2026 (`/v1/cdr/all`, `/v1/cdr`), the CSV export
//! (`/v1/cdr.csv`), a bearer key or `appid`, and every filter. Days are UTC days.

pub(crate) mod demo;
mod faults;
mod generator;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::json;
use tokio::net::TcpListener;

use crate::body::framing::Format;
use crate::cdr::slice::{Direction, Slice, parse_day};
use crate::source::wavix::DEFAULT_PER_PAGE;
pub(crate) use faults::Fault;
pub use faults::Faults;
use faults::RandomFailure;
pub(crate) use generator::Call;
pub use generator::{Generator, KeyOrder};

/// Bytes rendered before they are sent.
const CHUNK_BYTES: usize = 64 << 10;
/// Largest page of the list.
const MAX_PER_PAGE: u64 = 1_000;
/// Read buffer for prerendered bodies.
const FILE_CHUNK_BYTES: usize = 256 << 10;

/// The simulated API.
#[derive(Debug)]
pub struct Simulator {
    generator: Generator,
    key: String,
    faults: Faults,
    rendered: Option<Rendered>,
    /// How often each slice was streamed, for transient faults.
    streamed: Mutex<HashMap<Slice, u32>>,
    /// Random numbers for a flaky API. The generator's seed and the order of requests determine its
    /// failures.
    random: Mutex<fastrand::Rng>,
}

/// Prerendered bodies, which cost almost nothing to serve.
#[derive(Debug)]
struct Rendered {
    directory: tempfile::TempDir,
    days: RangeInclusive<Date>,
}

impl Rendered {
    fn path(&self, slice: Slice) -> PathBuf {
        self.directory
            .path()
            .join(format!("{}-{}.ndjson", slice.direction, slice.period))
    }
}

impl Simulator {
    /// An API that accepts one key.
    pub fn new(generator: Generator, key: impl Into<String>, faults: Faults) -> Self {
        let random = fastrand::Rng::with_seed(generator.seed);
        Self {
            generator,
            key: key.into(),
            faults,
            rendered: None,
            streamed: Mutex::default(),
            random: Mutex::new(random),
        }
    }

    /// Renders whole days to temporary files and serves these.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn with_rendered(mut self, days: RangeInclusive<Date>) -> io::Result<Self> {
        let rendered = Rendered {
            directory: tempfile::tempdir()?,
            days: days.clone(),
        };
        for slice in slices(&days) {
            let mut file = BufWriter::new(std::fs::File::create(rendered.path(slice))?);
            let mut line = Vec::new();
            for index in 0..self.generator.count(slice, Timestamp::now()) {
                line.clear();
                self.generator
                    .render(&self.generator.call(slice, index), &mut line);
                line.push(b'\n');
                file.write_all(&line)?;
            }
            file.flush()?;
        }
        self.rendered = Some(rendered);
        Ok(self)
    }

    /// Serves on `listener` until the returned task is aborted or dropped with its runtime.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn serve(
        self,
        listener: TcpListener,
    ) -> io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/v1/cdrs/all", get(stream_calls))
            .route("/v1/cdr/all", get(stream_calls))
            .route("/v1/cdrs", get(list_calls))
            .route("/v1/cdr", get(list_calls))
            .route("/v1/cdr.csv", get(stream_csv))
            .fallback(|| async { error_response(StatusCode::NOT_FOUND, "Not found") })
            .with_state(Arc::new(self));
        let server = tokio::spawn(async move {
            // `axum::serve` only ends when its task is aborted.
            drop(axum::serve(listener, router).await);
        });
        Ok((address, server))
    }

    /// The generator of the calls, for comparisons.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }
}

fn slices(days: &RangeInclusive<Date>) -> impl Iterator<Item = Slice> + use<> {
    let (start, end) = (*days.start(), *days.end());
    let days = std::iter::successors(Some(start), |day| day.tomorrow().ok())
        .take_while(move |day| *day <= end);
    days.flat_map(|day| Direction::ALL.map(|direction| Slice::of_day(day, direction)))
}

/// An error response.
#[derive(Debug)]
struct ErrorResponse {
    status: StatusCode,
    body: serde_json::Value,
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let mut response = (
            self.status,
            [(CONTENT_TYPE, "application/json")],
            self.body.to_string(),
        )
            .into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("0"));
        }
        response
    }
}

/// The validated parameters of a request.
#[derive(Clone, Debug)]
struct CallQuery {
    days: RangeInclusive<Date>,
    direction: Direction,
    disposition: Option<String>,
    from_search: Option<String>,
    to_search: Option<String>,
    sip_trunk: Option<String>,
    uuid: Option<String>,
    page: u64,
    per_page: Option<u64>,
}

impl CallQuery {
    fn parse(query: &HashMap<String, String>) -> Result<Self, ErrorResponse> {
        let text = |name: &str| query.get(name).filter(|value| !value.is_empty()).cloned();
        let wrong = |name: &str| {
            error_response(
                StatusCode::BAD_REQUEST,
                &format!("Missing or invalid parameter {name}"),
            )
        };
        let day = |name: &str| {
            text(name)
                .and_then(|text| parse_day(&text).ok())
                .ok_or_else(|| wrong(name))
        };
        let number = |name: &str| match text(name) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|&number| number > 0)
                .map(Some)
                .ok_or_else(|| wrong(name)),
        };
        let days = day("from")?..=day("to")?;
        if days.is_empty() {
            return Err(wrong("to"));
        }
        let direction = text("type")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| wrong("type"))?;
        let disposition = text("disposition").unwrap_or_else(|| "answered".to_owned());
        if !["answered", "noanswer", "busy", "failed", "rejected", "all"]
            .contains(&disposition.as_str())
        {
            return Err(wrong("disposition"));
        }
        Ok(Self {
            days,
            direction,
            disposition: Some(disposition).filter(|disposition| disposition != "all"),
            from_search: text("from_search"),
            to_search: text("to_search"),
            // "Ignored for inbound calls."
            sip_trunk: text("sip_trunk").filter(|_| direction == Direction::Placed),
            uuid: text("uuid"),
            page: number("page")?.unwrap_or(1),
            per_page: number("per_page")?,
        })
    }

    fn has_filter(&self) -> bool {
        [
            &self.disposition,
            &self.from_search,
            &self.to_search,
            &self.sip_trunk,
            &self.uuid,
        ]
        .into_iter()
        .any(Option::is_some)
    }

    fn matches(&self, call: &Call) -> bool {
        let contains = |wanted: &Option<String>, text: &str| {
            wanted.as_deref().is_none_or(|wanted| text.contains(wanted))
        };
        let equals = |wanted: &Option<String>, text: &str| {
            wanted.as_deref().is_none_or(|wanted| text == wanted)
        };
        equals(&self.disposition, call.disposition)
            && contains(&self.from_search, &call.from)
            && contains(&self.to_search, &call.to)
            && equals(
                &self.sip_trunk,
                call.sip_trunk.as_deref().unwrap_or_default(),
            )
            && equals(&self.uuid, &call.call_id)
    }

    fn slices(&self) -> impl Iterator<Item = Slice> + use<> {
        let direction = self.direction;
        slices(&self.days).filter(move |slice| slice.direction == direction)
    }

    /// The slice, if the request asks for exactly one slice without filters.
    fn whole_slice(&self) -> Option<Slice> {
        let one_day = self.days.start() == self.days.end();
        (one_day && !self.has_filter()).then(|| Slice::of_day(*self.days.start(), self.direction))
    }

    /// The calls from number `skip` on. Without filters, skipped calls are not generated.
    fn calls(
        &self,
        generator: &Generator,
        mut skip: u64,
        now: Timestamp,
    ) -> impl Iterator<Item = Call> + Send + use<> {
        let generator = generator.clone();
        let wanted = self.clone();
        let mut ranges = Vec::new();
        for slice in self.slices() {
            let count = generator.count(slice, now);
            let first = if self.has_filter() {
                0
            } else {
                skip.min(count)
            };
            skip -= first;
            ranges.push((slice, first..count));
        }
        let matching = usize::try_from(skip).unwrap_or(usize::MAX);
        ranges
            .into_iter()
            .flat_map(|(slice, indexes)| indexes.map(move |index| (slice, index)))
            .map(move |(slice, index)| generator.call(slice, index))
            .filter(move |call| wanted.matches(call))
            .skip(matching)
    }

    fn total(&self, generator: &Generator, now: Timestamp) -> u64 {
        if self.has_filter() {
            self.calls(generator, 0, now).count() as u64
        } else {
            self.slices().map(|slice| generator.count(slice, now)).sum()
        }
    }
}

fn error_response(status: StatusCode, message: &str) -> ErrorResponse {
    ErrorResponse {
        status,
        body: json!({ "success": false, "message": message }),
    }
}

/// Checks the key, a bearer token or (deprecated) the parameter `appid`.
fn authorize(
    simulator: &Simulator,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
) -> Result<(), ErrorResponse> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if bearer.or(query.get("appid").map(String::as_str)) == Some(&simulator.key) {
        return Ok(());
    }
    let body = json!({ "success": false, "error": true, "message": "Unauthorized" });
    Err(ErrorResponse {
        status: StatusCode::UNAUTHORIZED,
        body,
    })
}

async fn list_calls(
    State(simulator): State<Arc<Simulator>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if let Some(answer) = simulator.random_failure(false).and_then(failed_response) {
        return answer;
    }
    let answer = move || {
        authorize(&simulator, &headers, &query)?;
        let wanted = CallQuery::parse(&query)?;
        let per_page = wanted
            .per_page
            .unwrap_or(DEFAULT_PER_PAGE)
            .min(MAX_PER_PAGE);
        let now = Timestamp::now();
        let total = wanted.total(&simulator.generator, now);
        let mut body = b"{\"items\":[".to_vec();
        let skip = (wanted.page - 1).saturating_mul(per_page);
        let calls = wanted.calls(&simulator.generator, skip, now);
        for (i, call) in calls
            .take(usize::try_from(per_page).unwrap_or(usize::MAX))
            .enumerate()
        {
            if i > 0 {
                body.push(b',');
            }
            simulator.generator.render(&call, &mut body);
        }
        let pagination = json!({
            "current_page": wanted.page,
            "per_page": per_page,
            "total": total,
            "total_pages": total.div_ceil(per_page),
        });
        body.extend_from_slice(format!("],\"pagination\":{pagination}}}").as_bytes());
        Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
    };
    // Counting with a filter generates every call of the days.
    let answer = tokio::task::spawn_blocking(answer).await;
    answer
        .unwrap_or_else(|_| {
            Err(error_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
            ))
        })
        .unwrap_or_else(IntoResponse::into_response)
}

/// The response of a failing request; `None` for failures within a stream.
fn failed_response(failure: RandomFailure) -> Option<Response> {
    let body = |body| ([(CONTENT_TYPE, "application/json")], body).into_response();
    Some(match failure {
        RandomFailure::Status(status) => error_response(status, "Try again").into_response(),
        RandomFailure::WebPage => {
            ([(CONTENT_TYPE, "text/html")], "<html>Bad gateway</html>").into_response()
        }
        RandomFailure::Stall => body(Body::from_stream(
            stream::pending::<Result<Bytes, io::Error>>(),
        )),
        RandomFailure::Cut => body(Body::from_stream(stream::iter([Err::<Bytes, _>(
            io::Error::other("cut on request"),
        )]))),
        RandomFailure::ErrorObject | RandomFailure::Short => return None,
    })
}

async fn stream_calls(
    State(simulator): State<Arc<Simulator>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    stream_response(&simulator, &headers, &query, Format::Json)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn stream_csv(
    State(simulator): State<Arc<Simulator>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    stream_response(&simulator, &headers, &query, Format::Csv)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn stream_response(
    simulator: &Arc<Simulator>,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
    format: Format,
) -> Result<Response, ErrorResponse> {
    authorize(simulator, headers, query)?;
    let wanted = CallQuery::parse(query)?;
    let whole_slice = wanted.whole_slice();
    let attempt = match whole_slice {
        Some(slice) => simulator.count_attempt(slice),
        None => 1,
    };
    let failure = simulator.random_failure(true);
    let is_within_stream = matches!(
        failure,
        Some(RandomFailure::Cut | RandomFailure::ErrorObject | RandomFailure::Short)
    );
    if let Some(answer) = failure
        .filter(|_| !is_within_stream)
        .and_then(failed_response)
    {
        return Ok(answer);
    }
    if attempt <= simulator.faults.unavailable {
        return Err(error_response(
            StatusCode::SERVICE_UNAVAILABLE,
            "Service temporarily unavailable",
        ));
    }
    let body = match (&simulator.rendered, whole_slice) {
        (Some(rendered), Some(slice))
            if format == Format::Json && rendered.days.contains(&slice.period.first_day()) =>
        {
            let file = tokio::fs::File::open(rendered.path(slice)).await;
            let file = file
                .map_err(|_| error_response(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))?;
            Body::from_stream(tokio_util::io::ReaderStream::with_capacity(
                file,
                FILE_CHUNK_BYTES,
            ))
        }
        _ => Body::from_stream(generated(simulator, &wanted, format, attempt, failure)),
    };
    let content_type = match format {
        Format::Json | Format::Lines => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8",
    };
    Ok(([(CONTENT_TYPE, content_type), (ETAG, "0")], body).into_response())
}

impl Simulator {
    /// Draws the failure of a request, if it is to fail.
    fn random_failure(&self, is_stream: bool) -> Option<RandomFailure> {
        self.draw(|random| self.faults.random_failure(is_stream, random))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(
            &mut self
                .random
                .lock()
                .expect("no panic occurs while it is locked"),
        )
    }

    fn count_attempt(&self, slice: Slice) -> u32 {
        let mut streamed = self
            .streamed
            .lock()
            .expect("no panic occurs while it is locked");
        let attempts = streamed.entry(slice).or_default();
        *attempts += 1;
        *attempts
    }
}

/// Generates lines while they are sent, with the requested faults.
fn generated(
    simulator: &Simulator,
    wanted: &CallQuery,
    format: Format,
    attempt: u32,
    failure: Option<RandomFailure>,
) -> impl futures::Stream<Item = Result<Bytes, io::Error>> + Send + use<> {
    let now = Timestamp::now();
    let generator = simulator.generator.clone();
    let fails_after = match failure {
        Some(_) => {
            let records = wanted.total(&generator, now);
            simulator.draw(|random| random.u64(..=records))
        }
        None => 0,
    };
    let faults = simulator.faults.with(failure, attempt, fails_after);
    let per_page = faults.paged.then(|| {
        wanted
            .per_page
            .unwrap_or(DEFAULT_PER_PAGE)
            .min(MAX_PER_PAGE)
    });
    let skip = per_page.map_or(0, |per_page| (wanted.page - 1).saturating_mul(per_page));
    // Counting with a filter generates every call, so count only to cut off the end.
    let left = match faults.short {
        0 => u64::MAX,
        short => wanted
            .total(&generator, now)
            .saturating_sub(short)
            .saturating_sub(skip),
    };
    let count = per_page.map_or(left, |per_page| left.min(per_page));
    let calls = wanted
        .calls(&generator, skip, now)
        .take(usize::try_from(count).unwrap_or(usize::MAX));
    let state = (calls, 0_u64, false, false);
    stream::unfold(state, move |(mut calls, mut sent, has_begun, ended)| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + 1024);
        let mut item = None;
        if format == Format::Csv && !has_begun {
            Generator::render_csv_header(&mut chunk);
        }
        if !ended {
            while chunk.len() < CHUNK_BYTES {
                if faults.fails_after(attempt, sent) {
                    item = Some(faults.last_item(&chunk));
                    break;
                }
                let Some(call) = calls.next() else { break };
                sent += 1;
                faults.write_line(sent, &mut chunk, |line| match format {
                    Format::Json | Format::Lines => generator.render(&call, line),
                    Format::Csv => Generator::render_csv(&call, line),
                });
            }
        }
        let next = match item {
            Some(item) => Some((item, true)),
            None if chunk.is_empty() => None,
            None => Some((Ok(Bytes::from(chunk)), false)),
        };
        std::future::ready(next.map(|(item, ended)| (item, (calls, sent, true, ended))))
    })
}
