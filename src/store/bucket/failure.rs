//! What errors of an object store mean, in texts without secrets.
//!
//! The library's own texts are not printed: they contain whole XML replies with access key IDs and
//! signed strings, and URLs that may contain signatures.

use object_store::Error as Cause;
use object_store::client::{HttpError, HttpErrorKind};
use url::Url;

use super::connect::Scheme;
use crate::error::{causes, one_line};
use crate::store::{ClassifiedError, FailureKind};

/// Limit of characters printed of a server's message.
const MAX_MESSAGE_CHARS: usize = 300;

/// The operation, which determines the required permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    List,
    Write,
    Upload,
    Abort,
    Delete,
    ListUploads,
}

impl Action {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Upload => "upload",
            Self::Abort => "abort an upload of",
            Self::Delete => "delete",
            Self::ListUploads => "list uploads below",
        }
    }

    /// The required permission.
    fn permission(self, scheme: Scheme) -> &'static str {
        match (scheme, self) {
            // Without s3:ListBucket, S3 answers 403 for a missing object.
            (Scheme::S3, Self::Read) => {
                "s3:GetObject on the objects and s3:ListBucket on the bucket"
            }
            (Scheme::S3, Self::List) => "s3:ListBucket on the bucket",
            (Scheme::S3, Self::Write | Self::Upload) => {
                "s3:PutObject on the objects (with SSE-KMS also kms:GenerateDataKey and \
                 kms:Decrypt on the key)"
            }
            (Scheme::S3, Self::Abort) => "s3:AbortMultipartUpload on the objects",
            (Scheme::S3, Self::Delete) => "s3:DeleteObject on the objects",
            (Scheme::S3, Self::ListUploads) => {
                "s3:ListBucketMultipartUploads on the bucket and s3:AbortMultipartUpload on the \
                 objects"
            }
            (Scheme::Gs, Self::Read) => "storage.objects.get",
            (Scheme::Gs, Self::List | Self::ListUploads) => "storage.objects.list",
            (Scheme::Gs, Self::Write | Self::Upload) => {
                "storage.objects.create and storage.objects.delete (to replace objects)"
            }
            (Scheme::Gs, Self::Abort) => "storage.multipartUploads.abort",
            (Scheme::Gs, Self::Delete) => "storage.objects.delete",
            (Scheme::Az, _) => "the role Storage Blob Data Contributor on the container",
        }
    }
}

/// Classifies an error, and explains it with its remedy.
pub(super) fn explain(scheme: Scheme, action: Action, error: &Cause) -> ClassifiedError {
    let parsed = ParsedError::of(error);
    let (kind, hint) = parsed.judge(scheme, action, error);
    let mut text = parsed.text();
    if !hint.is_empty() {
        text = format!("{text}. {hint}");
    }
    ClassifiedError {
        kind,
        is_uncertain: false,
        text,
    }
}

/// Whether the object does not exist, in a bucket that does.
pub(super) fn is_absent(error: &Cause) -> bool {
    matches!(error, Cause::NotFound { .. }) && !ParsedError::of(error).is_about_the_bucket()
}

/// Whether a retry is pointless.
pub(super) fn is_final(scheme: Scheme, error: &Cause) -> bool {
    let parsed = ParsedError::of(error);
    parsed.judge(scheme, Action::Write, error).0 != FailureKind::Passing
}

/// The facts in an error.
#[derive(Debug, Default)]
struct ParsedError {
    /// The HTTP status, such as `403 Forbidden`.
    status: Option<String>,
    /// The server's error code.
    code: Option<String>,
    /// The server's message.
    message: Option<String>,
    /// Where the request was sent: the host of its address, which may have credentials elsewhere.
    host: Option<String>,
    /// Why there was no reply.
    transport: Option<(HttpErrorKind, String)>,
    /// Another text, if there is none of these.
    other: String,
    /// Whether the request was for credentials from a cloud's metadata service.
    asked_metadata: bool,
    is_bare_redirect: bool,
}

impl ParsedError {
    fn of(error: &Cause) -> Self {
        let whole = error.to_string();
        let between = |from: &str, to: &str| {
            let (_, rest) = whole.split_once(from)?;
            let (found, _) = rest.split_once(to)?;
            Some(one_line(found, MAX_MESSAGE_CHARS))
        };
        let mut parsed = Self {
            // The second form is the library's for bulk deletions.
            status: between("status code: ", ":").or_else(|| between("(code: ", ")")),
            code: between("<Code>", "</Code>"),
            message: between("<Message>", "</Message>"),
            host: host_in(&whole),
            asked_metadata: whole.contains("169.254.169.254")
                || whole.contains("metadata.google.internal"),
            is_bare_redirect: whole.contains("Received redirect without LOCATION"),
            ..Self::default()
        };
        for cause in causes(error) {
            if let Some(http) = cause.downcast_ref::<HttpError>() {
                let deepest = causes(http).last();
                let why = deepest.map_or_else(|| http.to_string(), ToString::to_string);
                parsed.transport = Some((http.kind(), one_line(&why, MAX_MESSAGE_CHARS)));
            }
        }
        if parsed.status.is_none() && parsed.code.is_none() && parsed.transport.is_none() {
            parsed.other = match error {
                Cause::AlreadyExists { .. } => "another object exists there".to_owned(),
                Cause::Precondition { .. } => "another process changed it meanwhile".to_owned(),
                Cause::NotFound { .. } => "it does not exist".to_owned(),
                // The last cause contains no URL; the texts above it may.
                error => causes(error).last().map_or_else(
                    || one_line(&whole, MAX_MESSAGE_CHARS),
                    |cause| one_line(&cause.to_string(), MAX_MESSAGE_CHARS),
                ),
            };
        }
        parsed
    }

    fn text(&self) -> String {
        if let Some((kind, why)) = &self.transport {
            let host = self.host.as_deref().unwrap_or("the store");
            return match kind {
                HttpErrorKind::Connect => format!("cannot connect to {host}: {why}"),
                HttpErrorKind::Timeout => format!("no reply from {host} in time: {why}"),
                _ => format!("the connection to {host} was interrupted: {why}"),
            };
        }
        let status = self.status.as_deref().unwrap_or_default();
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => {
                let number = status.split(' ').next().unwrap_or_default();
                format!("{number} {code}: {}", message.trim_end_matches('.'))
                    .trim_start()
                    .to_owned()
            }
            (Some(code), None) => format!("{status} {code}").trim_start().to_owned(),
            _ if !status.is_empty() => status.to_owned(),
            _ if self.is_bare_redirect => "the store redirects to another address".to_owned(),
            _ => self.other.clone(),
        }
    }

    fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    fn is_about_the_bucket(&self) -> bool {
        matches!(
            self.code(),
            "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted"
        )
    }

    /// The kind of failure, and its remedy.
    fn judge(&self, scheme: Scheme, action: Action, error: &Cause) -> (FailureKind, String) {
        use FailureKind::{Denied, Hopeless, Passing, Permanent, Unsupported};

        let number = self
            .status
            .as_ref()
            .and_then(|status| status.split(' ').next()?.parse::<u16>().ok());
        let (kind, hint) = match (self.code(), number) {
            // No metadata service, or none with credentials: this is not a machine of that cloud
            // with a role. Server errors are judged below.
            _ if self.asked_metadata && number.is_none_or(|number| number < 500) => {
                (Hopeless, scheme.no_credentials())
            }
            _ if self.is_about_the_bucket() => (
                Hopeless,
                "Create the bucket, or correct lake.url. cdrlake does not create buckets",
            ),
            (
                "PermanentRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
                _,
            ) => (
                Hopeless,
                "The bucket is in another region: set lake.options.region",
            ),
            _ if self.is_bare_redirect => (
                Hopeless,
                "The bucket is in another region: set lake.options.region",
            ),
            ("RequestTimeTooSkewed", _) => (Hopeless, "Correct this machine's clock"),
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => (
                Hopeless,
                "The credentials have expired: renew them and run again",
            ),
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidToken"
                | "InvalidIdentityToken"
                | "AuthenticationFailed"
                | "NoAuthenticationInformation",
                _,
            )
            | (_, Some(401)) => (Hopeless, scheme.wrong_credentials()),
            // A failed condition: S3 also answers 404 if the object to replace is gone.
            _ if matches!(
                error,
                Cause::Precondition { .. } | Cause::AlreadyExists { .. }
            ) =>
            {
                (Passing, "")
            }
            // Transmission errors: S3 answers 400 if the request's bytes do not arrive.
            (
                "RequestTimeout"
                | "IncompleteBody"
                | "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "InternalError",
                _,
            ) => (Passing, ""),
            ("NotImplemented", _) | (_, Some(501)) => (Unsupported, ""),
            ("SlowDown" | "ServerBusy", _) | (_, Some(429 | 503)) => (
                Passing,
                "The store throttles requests: lower source.requests",
            ),
            (_, Some(403)) => {
                let permission = action.permission(scheme);
                return (
                    Denied,
                    format!(
                        "The credentials lack a permission. Grant {permission}; see docs/buckets.md"
                    ),
                );
            }
            (_, Some(408 | 409 | 412)) => (Passing, ""),
            (_, Some(400..=499)) => (Permanent, ""),
            (_, Some(_)) => (Passing, ""),
            _ => match error {
                Cause::NotImplemented { .. } | Cause::NotSupported { .. } => (Unsupported, ""),
                Cause::InvalidPath { .. }
                | Cause::UnknownConfigurationKey { .. }
                | Cause::NotFound { .. } => (Permanent, ""),
                Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => {
                    (Hopeless, scheme.wrong_credentials())
                }
                _ => match &self.transport {
                    Some((HttpErrorKind::Connect, _)) => {
                        (Passing, "Check lake.options.endpoint and the network")
                    }
                    Some((HttpErrorKind::Timeout, _)) => {
                        (Passing, "On a slow network raise lake.options.timeout")
                    }
                    _ => (Passing, ""),
                },
            },
        };
        (kind, hint.to_owned())
    }
}

/// The host, with its port, of the first address in a text.
fn host_in(text: &str) -> Option<String> {
    let begins_address = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
    let url = Url::parse(text.split_whitespace().find(begins_address)?).ok()?;
    let host = url.host_str()?;
    let port = url.port().map(|port| format!(":{port}"));
    Some(format!("{host}{}", port.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_without_the_rest_of_its_address() {
        let text = "Error performing GET https://key:HUSH@minio.example:9000/b/x?sig=HUSH in 1s";
        assert_eq!(host_in(text).as_deref(), Some("minio.example:9000"));
        assert_eq!(host_in("Error performing GET REDACTED in 1s"), None);
    }

    /// An error as the library builds it from a reply.
    fn answer(status: &str, body: &str) -> Cause {
        Cause::Generic {
            store: "S3",
            source: format!(
                "Error performing PUT http://localhost/b/x?sig=HUSH in 1s - Server returned \
                 non-2xx status code: {status}: {body}"
            )
            .into(),
        }
    }

    #[test]
    fn an_error_text_contains_the_server_s_message_but_no_secrets() {
        let body = "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>The \
            request signature we calculated does not match the signature you \
            provided.</Message>\
            <AWSAccessKeyId>AKIDTEST</AWSAccessKeyId><StringToSign>HUSH</StringToSign></Error>";
        let error = explain(Scheme::S3, Action::Write, &answer("403 Forbidden", body));
        let text = error.to_string();
        assert!(
            text.starts_with(
                "403 SignatureDoesNotMatch: The request signature we calculated does \
                not match the signature you provided. "
            ),
            "{text}"
        );
        assert!(
            !text.contains("HUSH") && !text.contains("AKIDTEST"),
            "{text}"
        );
        assert_eq!(error.kind, FailureKind::Hopeless);
    }

    #[test]
    fn a_denied_request_names_the_missing_permission() {
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        for (action, permission) in [
            (Action::Read, "s3:GetObject"),
            (Action::List, "s3:ListBucket"),
            (Action::Write, "s3:PutObject"),
            (Action::Delete, "s3:DeleteObject"),
        ] {
            let error = explain(Scheme::S3, action, &answer("403 Forbidden", body));
            assert!(error.to_string().contains(permission), "{error}");
            assert_eq!(error.kind, FailureKind::Denied);
        }
    }

    #[test]
    fn passing_failures_are_told_apart_from_permanent_ones() {
        let kind = |status, code: &str| {
            let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
            explain(Scheme::S3, Action::Write, &answer(status, &body)).kind
        };
        assert_eq!(
            kind("503 Service Unavailable", "SlowDown"),
            FailureKind::Passing
        );
        assert_eq!(
            kind("500 Internal Server Error", "InternalError"),
            FailureKind::Passing
        );
        assert_eq!(
            kind("409 Conflict", "ConditionalRequestConflict"),
            FailureKind::Passing
        );
        assert_eq!(
            kind("400 Bad Request", "EntityTooSmall"),
            FailureKind::Permanent
        );
        assert_eq!(
            kind("400 Bad Request", "ExpiredToken"),
            FailureKind::Hopeless
        );
        assert_eq!(kind("404 Not Found", "NoSuchBucket"), FailureKind::Hopeless);
        assert_eq!(
            kind("501 Not Implemented", "NotImplemented"),
            FailureKind::Unsupported
        );
    }
}
