//! Where calls come from: the [trait](Source) that a run uses, and its implementations.
//!
//! [`wavix`] asks the API; [`files`] reads exports from it, and asks the API for
//! counts only.

mod error;
pub(crate) mod files;
pub(crate) mod requests;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod wavix;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use jiff::civil::Date;

use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::cdr::slice::Slice;
use crate::lake::ledger::Asked;
use crate::privacy::Credentials;
pub use error::SourceError;
use files::ExportReader;

/// Where calls come from. It is asked for slices, and for the provider's own counts of them.
///
/// ```
/// use std::sync::Arc;
///
/// use cdrlake::{
///     Asked, Body, Config, Credentials, Encoding, Format, Job, Request, Selection, Source,
///     SourceError,
/// };
/// use futures::{StreamExt, stream};
///
/// /// One call on each day.
/// #[derive(Debug, Default)]
/// struct OneCall(Arc<Credentials>);
///
/// #[async_trait::async_trait]
/// impl Source for OneCall {
///     async fn open(&self, request: Request) -> Result<Body, SourceError> {
///         let Request { slice, last_day: day, .. } = request;
///         let call = format!("{{\"date\":\"{day}T10:00:00Z\",\"call_id\":\"{slice}\"}}\n");
///         let chunks = stream::iter([Ok(call.into())]).boxed();
///         let asked = Asked { url: "memory:".to_owned(), query: Vec::new() };
///         Ok(Body::new(asked, Encoding::Identity, Format::Json, chunks))
///     }
///
///     async fn count(&self, _: Request) -> Result<u64, SourceError> {
///         Ok(1)
///     }
///
///     fn credentials(&self) -> &Arc<Credentials> {
///         &self.0
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let config = Config::from_keys([("lake.url", directory.path().display().to_string())])?;
/// let yesterday = Selection { last_days: Some(1), ..Selection::default() };
/// let job = Job::new(config, Arc::new(OneCall::default())).with_selection(yesterday);
/// assert_eq!(job.run().await?.run.report.totals.counts.rows, 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Begins to read a slice.
    ///
    /// # Errors
    /// [`SourceError`]; the body's own errors come from [`Body::chunk`].
    async fn open(&self, request: Request) -> Result<Body, SourceError>;

    /// The provider's own count of a slice.
    ///
    /// # Errors
    /// [`SourceError`]: [`SourceError::Permanent`] if the provider gives none.
    async fn count(&self, request: Request) -> Result<u64, SourceError>;

    /// Credentials, which nothing that is stored or shown may contain.
    fn credentials(&self) -> &Arc<Credentials>;

    /// A further page of a slice whose first body turned out to be a page, counted from 2. It is
    /// read completely first, unless it is very long, so that a page that breaks off is requested
    /// again alone. By default there are no pages.
    ///
    /// # Errors
    /// [`SourceError`], also if there is no such page.
    async fn page(&self, _request: Request, _page: u64) -> Result<Body, SourceError> {
        let problem = "this source has no pages";
        Err(SourceError::Permanent(problem.to_owned()))
    }

    /// Whether a slice is the same however often it is read: what is wrong with it stays so. By
    /// default it is not.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Whether nothing that was asked so far was answered: then a failure is the network's, and no
    /// slice's. By default something was.
    fn is_cut_off(&self) -> bool {
        false
    }

    /// Holds back everything that is asked from now on, for so long. By default nothing is.
    fn slow_down(&self, _wait: Duration) {}
}

/// What is asked of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The slice.
    pub slice: Slice,
    /// The first day of its period that is asked for: a later one than the period's first day if
    /// the lake begins with it.
    pub first_day: Date,
    /// The last day of its period that is asked for: an earlier one than the period's last day if
    /// that has not ended.
    pub last_day: Date,
}

impl Request {
    /// The whole period of a slice.
    pub fn whole(slice: Slice) -> Self {
        Self {
            slice,
            first_day: slice.period.first_day(),
            last_day: slice.period.last_day(),
        }
    }
}

/// Bytes as they come in.
pub type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;

/// The body of a slice: its description, and its bytes.
pub struct Body {
    /// What was asked, for the ledger.
    pub asked: Asked,
    /// The response's `ETag`, for the record.
    pub etag: Option<String>,
    /// The response's `Last-Modified`, for the record.
    pub last_modified: Option<String>,
    /// When the response began, by the server's clock.
    pub server_time: Option<Timestamp>,
    /// When what it holds was made, or earlier; `None` if that is now.
    pub made_at: Option<Timestamp>,
    /// How the bytes of its [chunks](Self::chunk) are compressed.
    pub encoding: Encoding,
    /// What they are, decompressed.
    pub format: Format,
    /// Whether pages may follow it.
    pub paging: Paging,
    /// The records of a day of an export, which stand in place of its chunks.
    pub export: Option<ExportReader>,
    /// The description of an answer that has no calls: 204, or a 404 of the API itself. The body is
    /// then empty, and means a day without calls if the provider counts none.
    pub absent: Option<String>,
    /// The error if the body turns out to be empty after decompression.
    pub if_empty: Option<SourceError>,
    /// Its bytes.
    pub chunks: Chunks,
}

impl Body {
    /// A body that is all there is of a slice, and of which nothing else is known.
    pub fn new(asked: Asked, encoding: Encoding, format: Format, chunks: Chunks) -> Self {
        Self {
            asked,
            etag: None,
            last_modified: None,
            server_time: None,
            made_at: None,
            encoding,
            format,
            paging: Paging::Whole,
            export: None,
            absent: None,
            if_empty: None,
            chunks,
        }
    }

    /// The next bytes, or `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`SourceError`] if it breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        self.chunks.try_next().await
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("asked", &self.asked)
            .field("encoding", &self.encoding)
            .field("format", &self.format)
            .field("paging", &self.paging)
            .field("absent", &self.absent)
            .finish_non_exhaustive()
    }
}

/// Whether pages may follow a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// It is all there is.
    Whole,
    /// It should be all there is, but a server may page it nevertheless.
    Suspected,
    /// It is a page of a list.
    List,
}
