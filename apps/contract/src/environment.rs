//! Environment variables, read and written with bounds.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

/// Why a workload's environment cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A variable without a default is not set.
    #[error("the environment variable {name} is not set: {meaning}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it is for.
        meaning: &'static str,
    },
    /// A variable has a value that cannot be used.
    #[error("the environment variable {name} is `{value}`, which is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
}

/// Reads variables through a lookup, so that a test needs no process environment.
pub struct Reader<F> {
    lookup: F,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// A reader of the variables that `lookup` knows.
    pub fn new(lookup: F) -> Self {
        Self { lookup }
    }

    /// Text that must be there. A variable that is set to nothing counts as not set.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn text(&self, name: &'static str, meaning: &'static str) -> Result<String, ConfigurationError> {
        self.optional(name).ok_or(ConfigurationError::Missing { name, meaning })
    }

    /// Text that may be absent.
    pub fn optional(&self, name: &'static str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A number within bounds, or the default.
    ///
    /// # Errors
    ///
    /// When it does not parse or is out of bounds.
    pub fn number<T>(
        &self,
        name: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> Result<T, ConfigurationError>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(value) = self.optional(name) else { return Ok(default) };
        value.parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
            ConfigurationError::Invalid {
                name,
                value,
                expected: format!("a number from {} to {}", bounds.start(), bounds.end()),
            }
        })
    }

    /// A number within bounds that may be absent.
    ///
    /// # Errors
    ///
    /// When it does not parse or is out of bounds.
    pub fn optional_number<T>(
        &self,
        name: &'static str,
        bounds: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigurationError>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.optional(name).map(|_| self.number(name, *bounds.start(), bounds)).transpose()
    }

    /// `true` or `false`; false where it is absent.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn flag(&self, name: &'static str) -> Result<bool, ConfigurationError> {
        let Some(value) = self.optional(name) else { return Ok(false) };
        value.parse().map_err(|_| ConfigurationError::Invalid {
            name,
            value,
            expected: "`true` or `false`".to_owned(),
        })
    }
}

/// Collects variables to write.
#[derive(Debug, Default)]
pub struct Writer {
    variables: BTreeMap<String, String>,
}

impl Writer {
    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// All variables.
    #[must_use]
    pub fn finish(self) -> BTreeMap<String, String> {
        self.variables
    }
}
