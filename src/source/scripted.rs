//! A source for tests that gives prepared answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Body, Paging, Request, Source, SourceError};
use crate::body::decompress::Encoding;
use crate::body::framing::Format;
use crate::cdr::slice::Slice;
use crate::lake::ledger::Asked;
use crate::privacy::Credentials;
use crate::retry::RetryReason;

/// What comes of opening a slice once, or one of its pages.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This many calls, in one body.
    Calls(u64),
    /// These records, one a line, in one body.
    Lines(String),
    /// This many calls, before the body breaks off.
    Cut(u64),
    /// Nothing but an error.
    Fails(SourceError),
}

/// Answers in their order, and counts. A slice without prepared answers is an error.
#[derive(Debug)]
pub(crate) struct ScriptedSource {
    answers: Mutex<BTreeMap<Slice, VecDeque<Answer>>>,
    counts: BTreeMap<Slice, u64>,
    /// See [`Source::is_fixed`].
    pub(crate) is_fixed: bool,
    /// How often and for how long everything was held back.
    pub(crate) slowed_down: Mutex<Vec<Duration>>,
    credentials: Arc<Credentials>,
}

impl ScriptedSource {
    pub(crate) fn new() -> Self {
        Self {
            answers: Mutex::default(),
            counts: BTreeMap::new(),
            is_fixed: false,
            slowed_down: Mutex::default(),
            credentials: Arc::new(Credentials::new(None)),
        }
    }

    /// The same, with what comes of `slice`, of which the provider counts `count` calls.
    pub(crate) fn with(
        mut self,
        slice: Slice,
        count: u64,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        self.counts.insert(slice, count);
        let answers = answers.into_iter().collect();
        self.answers.lock().unwrap().insert(slice, answers);
        self
    }

    fn next(&self, slice: Slice, first_call: u64) -> Result<Body, SourceError> {
        let mut answers = self.answers.lock().unwrap();
        let answer = answers.get_mut(&slice).and_then(VecDeque::pop_front);
        let (calls, end) = match answer {
            Some(Answer::Lines(lines)) => return Ok(body([Ok(Bytes::from(lines))])),
            Some(Answer::Calls(calls)) => (calls, None),
            Some(Answer::Cut(calls)) => {
                let problem = "the stream broke off";
                let cut = SourceError::transient(RetryReason::BrokenBody, problem);
                (calls, Some(Err(cut)))
            }
            Some(Answer::Fails(error)) => return Err(error),
            None => {
                return Err(SourceError::Permanent(
                    "the script has no more answers".to_owned(),
                ));
            }
        };
        let lines = (first_call..first_call + calls).map(move |call| {
            let day = slice.period.first_day();
            Ok(Bytes::from(format!(
                "{{\"call_id\":\"{call}\",\"date\":\"{day}T10:00:00Z\",\"duration\":26}}\n"
            )))
        });
        Ok(body(lines.chain(end)))
    }
}

fn body(
    chunks: impl IntoIterator<Item = Result<Bytes, SourceError>, IntoIter: Send + 'static>,
) -> Body {
    let asked = Asked {
        url: "scripted:".to_owned(),
        query: Vec::new(),
    };
    let chunks = stream::iter(chunks).boxed();
    Body {
        paging: Paging::Suspected,
        ..Body::new(asked, Encoding::Identity, Format::Json, chunks)
    }
}

#[async_trait]
impl Source for ScriptedSource {
    async fn open(&self, request: Request) -> Result<Body, SourceError> {
        self.next(request.slice, 0)
    }

    async fn page(&self, request: Request, page: u64) -> Result<Body, SourceError> {
        let mut body = self.next(request.slice, page * 1_000)?;
        let mut held = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            held.push(Ok(chunk));
        }
        body.chunks = stream::iter(held).boxed();
        Ok(body)
    }

    async fn count(&self, request: Request) -> Result<u64, SourceError> {
        let count = self.counts.get(&request.slice).copied();
        count.ok_or_else(|| SourceError::Permanent("the script has no count".to_owned()))
    }

    fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    fn slow_down(&self, wait: Duration) {
        self.slowed_down.lock().unwrap().push(wait);
    }

    fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
}
