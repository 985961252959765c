//! A derived size, with its reason.

/// One derived size.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as in the environment's `override` table.
    pub name: &'static str,
    /// What is used: the override, or what was derived.
    pub value: u64,
    /// What was derived.
    pub derived: u64,
    /// The unit.
    pub unit: &'static str,
    /// The formula with its numbers.
    pub formula: String,
    /// Where the formula or limit comes from.
    pub source: &'static str,
}

impl Figure {
    /// Whether the environment overrides what was derived.
    #[must_use]
    pub fn is_overridden(&self) -> bool {
        self.value != self.derived
    }
}

/// Why a service level cannot be sized.
#[derive(Clone, Debug, PartialEq)]
pub struct CapacityError {
    /// What is wrong and what to change.
    pub message: String,
}

impl std::fmt::Display for CapacityError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for CapacityError {}

impl CapacityError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Figures, in the order in which they follow from one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizing {
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Sizing {
    /// Notes a figure and gives the value to go on with.
    pub(crate) fn derive(
        &mut self,
        name: &'static str,
        unit: &'static str,
        derived: u64,
        overridden: Option<u64>,
        formula: String,
        source: &'static str,
    ) -> u64 {
        let value = overridden.unwrap_or(derived);
        self.figures.push(Figure { name, value, derived, unit, formula, source });
        value
    }

    /// The figure of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}
