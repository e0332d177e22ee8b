//! The number that is to be erased: whether it can be, where it is, and its erasure.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::erase::{Erasure, Search, erase, search, slices};
use crate::config::Config;
use crate::lake::Lake;
use crate::ops::open::{existing_lake, open_lake};
use crate::ops::{Error, Observer};
use crate::privacy::{Mode, Token, holds_a_number_or_name, holds_several_numbers};

/// A number, and what the lake that a configuration names holds of it.
#[derive(Debug)]
pub(crate) struct NumberFound {
    lake: Lake,
    token: Token,
    /// Whether it is on the list of erased numbers already.
    is_known: bool,
    /// Where it is.
    pub search: Search,
}

impl NumberFound {
    /// Looks for `number` in the lake that `config` names, which is opened for writing if it
    /// `is_to_be_erased`. `None` if this was interrupted; nothing was changed then.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is no number that can be erased from this lake, [`Error`] if the lake
    /// cannot be read.
    pub(crate) async fn search(
        config: &Config,
        number: &str,
        is_to_be_erased: bool,
        observer: &dyn Observer,
        interrupt: &CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
        if !holds_a_number_or_name(number) {
            return usage("--number holds no number: write it in full, such as +13025550101");
        }
        if holds_several_numbers(number) {
            return usage("--number holds more than one number: erase them one at a time");
        }
        if config.privacy.modes.include(Mode::Truncate) {
            return usage(
                "this lake drops the last four digits of numbers (privacy.numbers, or that of a column, is truncate): what is left cannot be told to be of one number, so none can be erased for certain. `cdrlake prune` removes whole days",
            );
        }
        let existing = existing_lake(config, true).await?;
        let with_key = config.privacy(true)?;
        let key = with_key.key().expect("it was asked for");
        let token = key.token(number);
        let mut filters = config.source.number_filters();
        if let Some(filter) = filters.find(|filter| key.token(&filter.value) == token) {
            return usage(&format!(
                "the lake is filtered by that number (source.{}): all of it is about it, and lake.json names it. Remove the whole lake",
                filter.name
            ));
        }
        let privacy = with_key.suppressing([token.clone()]);
        let privacy = Arc::new(privacy.expect("there is a key"));
        let lake = if is_to_be_erased {
            open_lake(config, true).await?
        } else {
            existing
        };
        let slices = slices(&lake).await?;
        observer.slices_began(slices.len());
        let done = || observer.slice_looked_at();
        let found = tokio::select! {
            () = interrupt.cancelled() => return Ok(None),
            found = search(&lake, &slices, &privacy, &done) => found,
        };
        observer.ended();
        let list = lake.suppression().await?;
        Ok(Some(Self {
            is_known: list.is_some_and(|list| list.get(&token).is_some()),
            lake,
            token,
            search: found,
        }))
    }

    /// Erases it; `even_if_absent` also keeps out calls of a number that the lake has none of.
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
