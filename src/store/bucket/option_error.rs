//! Errors in `lake.options`.

/// An error in one of `lake.options`, or in their combination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// The option's name, if the error concerns one option.
    pub option: Option<String>,
    /// What is wrong, and the remedy.
    pub problem: String,
}

impl OptionError {
    pub(super) fn of(option: &str, problem: impl Into<String>) -> Self {
        Self {
            option: Some(option.to_owned()),
            problem: problem.into(),
        }
    }

    pub(super) fn of_all(problem: impl Into<String>) -> Self {
        Self {
            option: None,
            problem: problem.into(),
        }
    }
}
