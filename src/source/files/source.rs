//! An export in place of the API.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use secrecy::SecretString;

use super::{Export, ExportPart};
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::privacy::Credentials;
use crate::source::{Body, Request, Source, SourceError};

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
    async fn open(&self, request: Request) -> Result<Body, SourceError> {
        let ExportPart {
            reader,
            asked,
            as_of,
        } = self.export.part(request)?;
        let none = stream::empty().boxed();
        Ok(Body {
            made_at: Some(as_of),
            export: Some(reader),
            ..Body::new(asked, Encoding::Identity, Format::Lines, none)
        })
    }

    async fn count(&self, request: Request) -> Result<u64, SourceError> {
        match &self.counts {
            Some(counts) => counts.count(request).await,
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
