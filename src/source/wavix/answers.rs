//! What responses of the API mean, and what a missing response means.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use reqwest::{Response, StatusCode};
use rustls::AlertDescription;

use super::limits::{asked_for, describe_until};
use super::proxy::Proxy;
use super::{Api, Resource};
use crate::body::decompress::{DecompressError, Decompressor, Encoding};
use crate::error::{causes, chain, sanitized_excerpt};
use crate::retry::RetryReason;
use crate::source::SourceError;
use crate::source::error::describe_answer;
use crate::store::location::is_loopback;

/// This many responses with status 429 are not an accident.
const MANY_TIMES: u32 = 3;

/// As much of an error's body as is read, and as much of its message as is shown.
const MAX_ERROR_BYTES: usize = 2 << 10;

fn refusal_hint(status: StatusCode, resource: Resource) -> &'static str {
    match (status, resource) {
        (StatusCode::UNAUTHORIZED, _) => "Check source.api_key",
        (_, Resource::Stream | Resource::Csv) => {
            "The key needs the scope calls:read, and the account the call log service. If only the \
             bulk export is refused, set source.via to \"pages\" to read the list"
        }
        (_, Resource::List) => {
            "The key needs the scope calls:read, and the account the call log service"
        }
    }
}

/// An answer that is no error by itself.
#[derive(Debug)]
pub(super) enum Answer {
    /// 200.
    Calls(Response),
    /// There is nothing, and what that means where there should be something.
    Absent(Response, String),
}

impl Answer {
    /// The response, where there has to be one.
    pub(super) fn calls(self) -> Result<Response, SourceError> {
        match self {
            Self::Calls(response) => Ok(response),
            Self::Absent(_, problem) => Err(SourceError::Permanent(problem)),
        }
    }
}

impl Api {
    /// What it means that a request got no response.
    pub(super) fn unanswered(&self, error: reqwest::Error) -> SourceError {
        let error = error.without_url();
        // The outer errors contain nothing but "error sending request".
        let cause = causes(&error)
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        let host = self.host();
        let problem = format!("cannot reach {host}: {cause}");
        match tls_cause(&error) {
            Some(rustls::Error::InvalidCertificate(_)) => SourceError::Permanent(format!(
                "{problem}. The certificate is not trusted. Check source.url and this machine's \
                 clock; for a private certificate authority, set source.ca_file"
            )),
            Some(
                rustls::Error::PeerIncompatible(_)
                | rustls::Error::InvalidMessage(_)
                | rustls::Error::AlertReceived(
                    AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
                ),
            ) => SourceError::Permanent(format!(
                "{problem}. It does not support TLS 1.2 or newer. Check source.url and any proxy \
                 in between"
            )),
            // The host has answered before, so source.url is right.
            _ if self.was_reached() && error.is_connect() => {
                let way = self.proxy().map(|Proxy { variable, address }| {
                    format!(" through the proxy {address} ({variable})")
                });
                let way = way.unwrap_or_default();
                let problem = format!("lost the connection to {host}{way}: {cause}");
                SourceError::transient(RetryReason::Connection, problem)
            }
            _ if self.was_reached() => SourceError::transient(
                RetryReason::Connection,
                format!("the connection to {host} ended before a response: {cause}"),
            ),
            _ => {
                let problem = match self.proxy() {
                    Some(Proxy { variable, address }) => format!(
                        "cannot reach {host} through the proxy {address} ({variable}): {cause}. \
                         Check the variable and the proxy, or add the host to no_proxy"
                    ),
                    None => format!("{problem}. Check source.url and the network"),
                };
                SourceError::transient(RetryReason::Connection, problem)
            }
        }
    }

    /// The proxy in front of the API.
    pub(super) fn proxy(&self) -> Option<Proxy> {
        if is_loopback(&self.config.url) {
            return None;
        }
        Proxy::of(&self.config.url, |name| std::env::var(name).ok())
    }

    /// Passes a response with status 200 on, and turns any other into what it means.
    pub(super) async fn accept(
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
            return Err(self.redirected(&response));
        }
        let now = Timestamp::now();
        let is_limited = status == StatusCode::TOO_MANY_REQUESTS;
        let retry_after = asked_for(response.headers(), now, is_limited);
        let body = self.error_body(&mut response).await;
        let message = self.server_message(&body);
        if status == StatusCode::NOT_FOUND && own_words(&body).is_some() {
            let problem = describe_answer(status, &message);
            return Ok(Answer::Absent(response, problem));
        }
        Err(match status.as_u16() {
            // One day may be forbidden to a key that is good for others. The next one shows.
            403 if known.served.load(Ordering::Relaxed)
                && !known.forbidden.swap(true, Ordering::Relaxed) =>
            {
                SourceError::Permanent(format!(
                    "{}. The key is valid for other requests. Ask the provider what this day needs",
                    describe_answer(status, &message)
                ))
            }
            401 | 403 => SourceError::Refused {
                status,
                message,
                hint: refusal_hint(status, resource),
            },
            408 | 409 | 425 | 429 | 500.. => {
                let mut problem = describe_answer(status, &message);
                let longest = self.config.retry_max;
                // Slightly longer waits are accepted: 61 seconds for a limit of one minute.
                let most = longest.saturating_mul(2);
                if let Some(wait) = retry_after.filter(|wait| *wait > most) {
                    let until = describe_until(now, wait, TimeZone::system());
                    let problem = format!(
                        "{problem}. The API asks to wait until {until}, longer than \
                         source.retry_max ({longest:?})"
                    );
                    // Only a limit is the account's. Everything else may be of this day alone.
                    return Err(if is_limited {
                        SourceError::QuotaUsedUp(format!(
                            "{problem}. Run again then; committed slices are kept"
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
                        "{problem} ({times} times so far). Lower source.requests, or set \
                         source.requests_per_minute"
                    );
                }
                SourceError::Transient {
                    reason: if is_limited {
                        RetryReason::RateLimit
                    } else {
                        RetryReason::ServerError
                    },
                    problem,
                    slow_down: is_limited || retry_after.is_some(),
                    retry_after,
                }
            }
            _ => SourceError::Permanent(describe_answer(status, &message)),
        })
    }

    /// What it means that a response points elsewhere.
    fn redirected(&self, response: &Response) -> SourceError {
        let status = response.status();
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok());
        let target = target.and_then(|location| response.url().join(location).ok());
        // If the host is right already, its address is no remedy.
        let own = self.config.url.origin();
        if let Some(url) = target.as_ref().filter(|url| url.origin() == own) {
            let path = sanitized_excerpt(&self.hide_keys(url.path()));
            return SourceError::Permanent(format!(
                "the API answered {status}, redirecting to {path} on the same host. Redirects \
                 are not followed. Check the path in source.url, and any proxy in between"
            ));
        }
        let target = target.map_or_else(
            || "nowhere".to_owned(),
            |url| url.origin().ascii_serialization(),
        );
        SourceError::Permanent(format!(
            "the API answered {status}, redirecting to {target}. Redirects are not followed, \
             because the target would receive the key. Set source.url to the right address"
        ))
    }

    /// The beginning of an error's body, as far as it can be read.
    pub(super) async fn error_body(&self, response: &mut Response) -> Vec<u8> {
        let body = read_up_to(response, MAX_ERROR_BYTES, self.config.stall_timeout).await;
        beginning(response, &body.unwrap_or_default())
    }

    /// The server's words from an error's body: its own, or else the beginning.
    pub(super) fn server_message(&self, body: &[u8]) -> String {
        let message = own_words(body).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        let message = sanitized_excerpt(&self.hide_keys(&message));
        if message.is_empty() {
            "(no message)".to_owned()
        } else {
            message
        }
    }
}

/// The API's own message in an answer without calls: `message` of its JSON, `error`, or its
/// `message`.
pub(super) fn own_words(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let words = ["/message", "/error", "/error/message"].into_iter();
    let mut words = words.filter_map(|place| json.pointer(place)?.as_str());
    words.next().map(str::to_owned)
}

pub(super) fn content_type(response: &Response) -> Option<String> {
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
pub(super) fn encoding(response: &Response) -> Result<Encoding, SourceError> {
    Encoding::from_name(&encoding_name(response)).ok_or_else(|| unasked_encoding(response))
}

pub(super) fn unasked_encoding(response: &Response) -> SourceError {
    SourceError::Permanent(format!(
        "the answer is compressed ({}), which was not requested. Check for a proxy in between",
        sanitized_excerpt(&encoding_name(response))
    ))
}

/// The beginning of a compressed body, as far as it can be read.
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
pub(super) fn refuse_foreign(response: &Response) -> Result<(), SourceError> {
    match content_type(response) {
        Some(content_type) if content_type.contains("html") || content_type.contains("xml") => {
            Err(SourceError::Foreign(format!(
                "the answer is a web page ({}), not records. Check source.url, and any proxy or \
                 firewall in between",
                sanitized_excerpt(&content_type)
            )))
        }
        _ => Ok(()),
    }
}

/// The beginning of a body, at most `limit` bytes, within `timeout`: these are small answers, and
/// one that drips must not hold up a slice.
pub(super) async fn read_up_to(
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
            let problem = format!("the answer broke off: {}", chain(&error.without_url()));
            SourceError::transient(RetryReason::BrokenBody, problem)
        }),
        Err(_) => Err(SourceError::transient(
            RetryReason::Timeout,
            format!("the answer was not complete after {timeout:?} (source.stall_timeout)"),
        )),
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
