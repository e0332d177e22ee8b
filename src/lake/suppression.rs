//! Erased numbers, whose calls must not enter the lake again.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::identity::FORMAT;
use super::report::{Remark, RemarkKind};
use super::{Lake, LakeError, json, parse_own};
use crate::error::counted;
use crate::privacy::{Privacy, PrivacyKey, Token};
use crate::retry::{Retry, RetryPolicy};
use crate::store::layout;
use crate::store::{Swap, Version};

/// Retries while other processes change the list.
const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 13,
    ..RetryPolicy::STORE
};

/// The numbers whose calls are left out of every fetch. It contains keyed hashes only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuppressionList {
    /// Version of the lake's own files.
    pub format: u32,
    /// ID of the key of the hashes.
    pub key_id: String,
    /// The numbers.
    pub numbers: Vec<SuppressedNumber>,
}

/// An erased number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuppressedNumber {
    /// Its keyed hash.
    pub token: Token,
    /// Since when its calls are left out.
    pub since: Timestamp,
    /// When its erasure was complete; `None` until then.
    pub erased_at: Option<Timestamp>,
}

impl SuppressionList {
    /// A remark on incomplete erasures, if there are any.
    pub(crate) fn unfinished_remark(&self) -> Option<Remark> {
        let is_unfinished = |number: &&SuppressedNumber| number.erased_at.is_none();
        let numbers = self.numbers.iter().filter(is_unfinished).count();
        (numbers > 0).then(|| {
            RemarkKind::UnfinishedErasures.remark(format!(
                "{} incomplete, so calls of these numbers may still be in the lake",
                counted(numbers as u64, "erasure is", "erasures are")
            ))
        })
    }

    /// Checks that the policy has the key of the list.
    ///
    /// # Errors
    /// [`LakeError::OtherKey`].
    pub(crate) fn must_be_of(&self, privacy: &Privacy) -> Result<(), LakeError> {
        let found = privacy.key().map(PrivacyKey::id);
        if found == Some(&self.key_id) {
            return Ok(());
        }
        Err(LakeError::OtherKey {
            path: layout::suppression(),
            existing: self.key_id.clone(),
            found: found.map(str::to_owned),
        })
    }

    /// The entry of a number.
    pub(crate) fn get(&self, token: &Token) -> Option<&SuppressedNumber> {
        self.numbers.iter().find(|number| number.token == *token)
    }
}

impl Lake {
    /// The list of erased numbers, if it exists.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be read.
    pub(crate) async fn suppression(&self) -> Result<Option<SuppressionList>, LakeError> {
        Ok(self.read_suppression().await?.map(|(list, _)| list))
    }

    /// How numbers are stored now, including erased ones. The caller holds a slice's lease, for
    /// which an erasure that starts meanwhile waits.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be read, or has another key.
    pub(crate) async fn privacy_now(&self) -> Result<Arc<Privacy>, LakeError> {
        let Some(list) = self.suppression().await? else {
            return Ok(Arc::clone(&self.privacy));
        };
        list.must_be_of(&self.privacy)?;
        let tokens = list.numbers.into_iter().map(|number| number.token);
        let privacy = self.privacy.suppressing(tokens);
        Ok(Arc::new(privacy.expect("its key was just compared")))
    }

    /// Checks that `privacy` contains all numbers that are on the list now.
    pub(super) async fn must_know_all_erased(&self, privacy: &Privacy) -> Result<(), LakeError> {
        let Some(list) = self.suppression().await? else {
            return Ok(());
        };
        if list
            .numbers
            .iter()
            .all(|number| privacy.is_erased(&number.token))
        {
            Ok(())
        } else {
            Err(LakeError::ErasedMeanwhile)
        }
    }

    /// Adds a number to the list, or sets when its erasure was complete.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be written, or other processes keep changing it.
    pub async fn suppress(
        &self,
        key_id: &str,
        token: &Token,
        erased_at: Option<Timestamp>,
    ) -> Result<(), LakeError> {
        let path = layout::suppression();
        let mut retry = Retry::new(POLICY, None);
        loop {
            let (mut list, version) = match self.read_suppression().await? {
                Some((list, version)) => (list, Some(version)),
                None => {
                    let list = SuppressionList {
                        format: FORMAT,
                        key_id: key_id.to_owned(),
                        numbers: Vec::new(),
                    };
                    (list, None)
                }
            };
            if list.key_id != key_id {
                return Err(LakeError::OtherKey {
                    path,
                    existing: list.key_id,
                    found: Some(key_id.to_owned()),
                });
            }
            match list.numbers.iter_mut().find(|known| known.token == *token) {
                Some(known) => known.erased_at = erased_at,
                None => list.numbers.push(SuppressedNumber {
                    token: *token,
                    since: Timestamp::now(),
                    erased_at,
                }),
            }
            let swap = match version {
                None => self.store.create(&path, json(&list)).await?,
                Some(version) => self.store.replace(&path, json(&list), &version).await?,
            };
            if let Swap::Done(_) = swap {
                return Ok(());
            }
            // Another process changed the list at the same time.
            if !retry.wait_for_next().await {
                return Err(LakeError::Contended { path });
            }
        }
    }

    async fn read_suppression(&self) -> Result<Option<(SuppressionList, Version)>, LakeError> {
        let path = layout::suppression();
        let Some(found) = self.store.read(&path).await? else {
            return Ok(None);
        };
        Ok(Some((parse_own(path, &found)?, found.version)))
    }
}
