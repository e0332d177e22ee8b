//! Multipart uploads that were neither completed nor aborted: readers cannot see them, but they
//! cost storage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use super::option_error::OptionError;
use crate::TOOL;

/// How long a signed request is valid.
const QUESTION_EXPIRES: Duration = Duration::from_mins(5);
const TIMEOUT: Duration = Duration::from_mins(1);
/// Size limit of a reply: a thousand uploads take less than a megabyte.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// An upload in progress, of any process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    /// The object that it would become, below the lake.
    pub(super) path: Path,
    pub(super) id: String,
}

/// Lists and aborts the uploads of all processes.
#[async_trait]
pub(super) trait Uploads: fmt::Debug + Send + Sync {
    /// All uploads into the lake.
    async fn list(&self) -> Result<Vec<Upload>, object_store::Error>;

    /// Aborts an upload. One that does not exist counts as aborted.
    async fn abort(&self, upload: &Upload) -> Result<(), object_store::Error>;
}

/// The uploads in an S3 bucket. The library cannot list them, but it signs this request.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>
#[derive(Debug)]
pub(super) struct S3Uploads {
    store: Arc<AmazonS3>,
    prefix: Path,
    client: reqwest::Client,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default)]
    upload: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    upload_id: String,
}

impl S3Uploads {
    pub(super) fn try_new(store: Arc<AmazonS3>, prefix: &Path) -> Result<Self, OptionError> {
        let client = reqwest::Client::builder()
            .user_agent(TOOL)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .build()
            .map_err(|error| OptionError {
                option: None,
                problem: format!("the HTTP client cannot be created: {}", error.without_url()),
            })?;
        Ok(Self {
            store,
            prefix: prefix.clone(),
            client,
        })
    }

    async fn page(&self, after: Option<(String, String)>) -> Result<Listing, object_store::Error> {
        let mut query = vec![("uploads".to_owned(), String::new())];
        if !self.prefix.as_ref().is_empty() {
            query.push(("prefix".to_owned(), format!("{}/", self.prefix)));
        }
        if let Some((key, id)) = after {
            query.push(("key-marker".to_owned(), key));
            query.push(("upload-id-marker".to_owned(), id));
        }
        let mut options = SignedUrlOptions::default();
        options.extra_query = query;
        let url = self
            .store
            .signed_url_opts(
                reqwest::Method::GET,
                &Path::default(),
                QUESTION_EXPIRES,
                &options,
            )
            .await?;
        // The URL contains a signature, so errors must not contain it.
        let failed = |error: reqwest::Error| generic(crate::error::chain(&error.without_url()));
        let response = self.client.get(url).send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        let mut response = response;
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(generic("the list of uploads is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            // In the library's words, so that `failure` parses it.
            return Err(generic(format!("status code: {status}: {text}")));
        }
        quick_xml::de::from_str(&text)
            .map_err(|error| generic(format!("the list of uploads cannot be read: {error}")))
    }
}

#[async_trait]
impl Uploads for S3Uploads {
    async fn list(&self) -> Result<Vec<Upload>, object_store::Error> {
        let mut uploads = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(after.clone()).await?;
            uploads.extend(page.upload.into_iter().filter_map(|listed| {
                let key = Path::parse(listed.key).ok()?;
                Some(Upload {
                    path: key.prefix_match(&self.prefix)?.collect(),
                    id: listed.upload_id,
                })
            }));
            let next = page.next_key_marker.zip(page.next_upload_id_marker);
            // Also ends if a server repeats the same page.
            if !page.is_truncated || next.is_none() || next == after {
                return Ok(uploads);
            }
            after = next;
        }
    }

    async fn abort(&self, upload: &Upload) -> Result<(), object_store::Error> {
        let key = self.prefix.parts().chain(upload.path.parts()).collect();
        match self.store.abort_multipart(&key, &upload.id).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

fn generic(problem: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "S3",
        source: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_reply_is_parsed() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Bucket>b</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>\
            <NextKeyMarker>my-movie.m2ts</NextKeyMarker>\
            <NextUploadIdMarker>YW55</NextUploadIdMarker>\
            <MaxUploads>3</MaxUploads><IsTruncated>true</IsTruncated>\
            <Upload><Key>my-divisor</Key>\
            <UploadId>XMgbGlrZSBlbHZpbmcncyBub3QgaGF2aW5nIG11Y2ggbHVjaw</UploadId>\
            <Initiator><ID>i</ID></Initiator><StorageClass>STANDARD</StorageClass></Upload>\
            <Upload><Key>my-movie.m2ts</Key><UploadId>VXBsb2Fk</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let listing: Listing = quick_xml::de::from_str(text).unwrap();
        let found: Vec<_> = listing
            .upload
            .iter()
            .map(|upload| (&*upload.key, &*upload.upload_id))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "my-divisor",
                    "XMgbGlrZSBlbHZpbmcncyBub3QgaGF2aW5nIG11Y2ggbHVjaw"
                ),
                ("my-movie.m2ts", "VXBsb2Fk")
            ]
        );
        assert!(listing.is_truncated);
        assert_eq!(listing.next_key_marker.as_deref(), Some("my-movie.m2ts"));
        let text = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
            </ListMultipartUploadsResult>";
        let nothing: Listing = quick_xml::de::from_str(text).unwrap();
        assert!(nothing.upload.is_empty() && !nothing.is_truncated);
    }
}
