//! What is wrong with `lake.options`.

/// What is wrong with one of `lake.options`, or with all together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// The option's name, if it is one.
    pub option: Option<String>,
    /// What is wrong with it, and what to do.
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
