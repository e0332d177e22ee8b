//! An export in place of the API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::{StreamExt, stream};
use secrecy::SecretString;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::{Export, ExportDay};
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::cdr::slice::Slice;
use crate::privacy::Credentials;
use crate::source::{Body, Chunks, Source, SourceError};

/// Bytes read at once from a day of an export.
const CHUNK_BYTES: usize = 128 << 10;

/// An export, and the source of the provider's counts.
#[derive(Debug)]
pub(crate) struct ExportSource {
    export: Export,
    counts: Option<Arc<dyn Source>>,
    credentials: Arc<Credentials>,
}

impl ExportSource {
    /// The calls of `export`, and the counts of `counts`. Without `counts`, there are no counts.
    pub(crate) fn new(export: Export, counts: Option<Arc<dyn Source>>) -> Self {
        let credentials = match &counts {
            Some(counts) => Arc::clone(counts.credentials()),
            None => Arc::new(Credentials::new(None::<SecretString>)),
        };
        Self {
            export,
            counts,
            credentials,
        }
    }
}

#[async_trait]
impl Source for ExportSource {
    async fn open(&self, slice: Slice) -> Result<Body, SourceError> {
        let day = self.export.day(slice.day);
        let ExportDay { path, asked, as_of } = day.ok_or_else(|| {
            SourceError::Permanent(format!("the export has no calls of {}", slice.day))
        })?;
        let chunks = match File::open(&path).await {
            Ok(file) => chunks(file, path),
            Err(source) => return Err(SourceError::Spooled { path, source }),
        };
        Ok(Body {
            made_at: Some(as_of),
            split_from: Some(self.export.file_names()),
            ..Body::new(asked, Encoding::Zstd, Format::Lines, chunks)
        })
    }

    async fn count(&self, slice: Slice) -> Result<u64, SourceError> {
        match &self.counts {
            Some(counts) => counts.count(slice).await,
            None => Err(SourceError::Permanent(
                "the provider is not asked for counts".to_owned(),
            )),
        }
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn is_cut_off(&self) -> bool {
        let counts = self.counts.as_ref();
        counts.is_some_and(|counts| counts.is_cut_off())
    }

    fn slow_down(&self, wait: Duration) {
        if let Some(counts) = &self.counts {
            counts.slow_down(wait);
        }
    }

    fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
}

/// The bytes of a file.
fn chunks(file: File, path: PathBuf) -> Chunks {
    let next = async |(mut file, path): (File, PathBuf)| {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        match file.read_buf(&mut chunk).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((chunk.freeze(), (file, path)))),
            Err(source) => Err(SourceError::Spooled { path, source }),
        }
    };
    stream::try_unfold((file, path), next).boxed()
}
