//! The number to erase: whether it can be erased, where the lake holds it, and its erasure.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::erase::{Erasure, Search, erase, search, slices};
use crate::config::Config;
use crate::lake::Lake;
use crate::ops::open::without_key;
use crate::ops::{Error, Observer, UsageError};
use crate::privacy::{Mode, Token, holds_a_number_or_name, holds_several_numbers};

/// Whether `number` can be erased from the configured lake. Reads no lake.
///
/// # Errors
/// [`Error::Usage`] if not.
pub(crate) fn validate(config: &Config, number: &str) -> Result<(), Error> {
    if !holds_a_number_or_name(number) {
        return Err(UsageError::NoNumber.into());
    }
    if holds_several_numbers(number) {
        return Err(UsageError::SeveralNumbers.into());
    }
    if config.privacy.modes.include(Mode::Truncate) {
        return Err(UsageError::TruncatedNumbers.into());
    }
    Ok(())
}

/// A number, and where a lake holds it.
#[derive(Debug)]
pub(crate) struct NumberFound {
    lake: Lake,
    token: Token,
    /// Whether it is on the suppression list already.
    pub is_known: bool,
    /// Where the lake holds it.
    pub search: Search,
}

impl NumberFound {
    /// Searches `lake` for `number`. The key of pseudonyms is that of the lake, which has one if it
    /// was opened for writing, or the configured one. `None` if this was interrupted; nothing was
    /// changed then.
    ///
    /// # Errors
    /// [`Error::Usage`] if the whole lake is about the number, [`Error`] if the lake cannot be
    /// read.
    pub(crate) async fn search(
        lake: Lake,
        config: &Config,
        number: &str,
        observer: &dyn Observer,
        interrupt: &CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let with_key = match lake.privacy().key() {
            Some(_) => lake.privacy().clone(),
            None => match config.privacy(true) {
                Ok(privacy) => privacy,
                Err(error) => return Err(without_key(config, Some(&lake), error).await),
            },
        };
        let key = with_key.key().expect("it was asked for");
        let token = key.token(number);
        let mut filters = config.source.number_filters();
        if let Some(filter) = filters.find(|filter| key.token(&filter.value) == token) {
            let filter = filter.name.clone();
            return Err(UsageError::FilteredByNumber { filter }.into());
        }
        let privacy = with_key.suppressing([token]);
        let privacy = Arc::new(privacy.expect("there is a key"));
        let slices = slices(&lake).await?;
        observer.slices_began(slices.len());
        let done = || observer.slice_looked_at();
        let searching = search(&lake, &slices, &privacy, &done);
        let Some(search) = interrupt.run_until_cancelled(searching).await else {
            return Ok(None);
        };
        observer.ended();
        let list = lake.suppression().await?;
        Ok(Some(Self {
            is_known: list.is_some_and(|list| list.get(&token).is_some()),
            lake,
            token,
            search,
        }))
    }

    /// Erases it. A number that the lake does not hold is put onto the suppression list only
    /// `even_if_absent`.
    ///
    /// # Errors
    /// [`Error::NumberNotFound`] if there is nothing to erase, [`Error`] if the lake cannot be
    /// written at all.
    pub(crate) async fn erase(
        &self,
        config: &Config,
        even_if_absent: bool,
        observer: &dyn Observer,
        interrupt: &CancellationToken,
    ) -> Result<Erasure, Error> {
        let (lake, token, found) = (&self.lake, &self.token, &self.search);
        if found.holding().next().is_none() && !self.is_known && !even_if_absent {
            return Err(Error::NumberNotFound {
                found: found.clone(),
            });
        }
        observer.slices_began(found.slices.len() + found.problems.len());
        let done = || observer.slice_looked_at();
        let erasure = erase(lake, config, token, found, interrupt, &done).await?;
        observer.ended();
        Ok(erasure)
    }
}
