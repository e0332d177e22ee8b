//! Numbers that were erased: what a lake must not get again.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::identity::FORMAT;
use super::{Lake, LakeError, json, parse_own};
use crate::privacy::{Privacy, PrivacyKey, Token};
use crate::retry::{Retry, RetryPolicy};
use crate::store::layout;
use crate::store::{Swap, Version};

/// How often to add a number while others add theirs.
const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 13,
    ..RetryPolicy::STORE
};

/// The numbers whose calls are left out of everything that is fetched. It holds no number, only
/// keyed hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuppressionList {
    /// Version of the lake's own files.
    pub format: u32,
    /// Id of the key that the hashes are made with.
    pub key_id: String,
    /// The numbers.
    pub numbers: Vec<SuppressedNumber>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SuppressedNumber {
    /// Its keyed hash.
    pub token: Token,
    /// Since when its calls are left out.
    pub since: Timestamp,
    /// When the lake held none of its calls any more; `None` while that is not certain.
    pub erased_at: Option<Timestamp>,
}

impl SuppressionList {
    /// What is to be said of numbers whose erasure did not come to its end, if there are any.
    pub(crate) fn describe_unfinished(&self) -> Option<String> {
        let is_unfinished = |number: &&SuppressedNumber| number.erased_at.is_none();
        let numbers = self.numbers.iter().filter(is_unfinished).count();
        (numbers > 0).then(|| {
            format!(
                "numbers whose erasure did not come to its end: {numbers}. Calls of them may still be in the lake: `cdrlake erase` them again"
            )
        })
    }

    /// Refuses another key than that of the list.
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

    /// What is known of a number.
    pub(crate) fn get(&self, token: &Token) -> Option<&SuppressedNumber> {
        self.numbers.iter().find(|number| number.token == *token)
    }
}

impl Lake {
    /// The numbers that were erased, if any were.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be read.
    pub(crate) async fn suppression(&self) -> Result<Option<SuppressionList>, LakeError> {
        Ok(self.read_suppression().await?.map(|(list, _)| list))
    }

    /// What becomes of numbers now, the erased ones included. A slice's lease has to be held: an
    /// erasure that begins meanwhile waits for it.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be read, or only with another key.
    pub(crate) async fn privacy_now(&self) -> Result<Arc<Privacy>, LakeError> {
        let Some(list) = self.suppression().await? else {
            return Ok(Arc::clone(&self.privacy));
        };
        list.must_be_of(&self.privacy)?;
        let tokens = list.numbers.into_iter().map(|number| number.token);
        let privacy = self.privacy.suppressing(tokens);
        Ok(Arc::new(privacy.expect("its key was just compared")))
    }

    /// Refuses what was made with another list than the one that there is now, if a number has come
    /// onto it.
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

    /// Adds a number to the list, or says when it was erased. Whatever else is there stays.
    ///
    /// # Errors
    /// [`LakeError`] if the list cannot be written, or others write it again and again.
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
                    token: token.clone(),
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
            // Somebody erases another number at the same time.
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
