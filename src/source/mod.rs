//! Where calls come from: the API, or files that somebody exported from it.

pub mod files;
mod retry;
pub mod wavix;
