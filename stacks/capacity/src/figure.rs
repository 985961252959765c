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
    /// The load at which what is used is exhausted, in the unit of [`Sizing::load`]; nothing where the load
    /// does not wear it out.
    pub exhausted_at: Option<f64>,
    /// How much more than the peak that is, as a part of the peak: 0.25 carries a quarter more, -0.7 lacks 70%.
    pub headroom_at_peak: Option<f64>,
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

/// How much more than its sustained load a system sees at its peak, where its service level does not say:
/// the published systems state five times the average.
pub const PEAK_FACTOR: f64 = 5.0;

/// The load that figures are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Sustained, as the service level states it.
    pub sustained: f64,
    /// At the peak.
    pub peak: f64,
    /// The unit of both, such as `messages/s`.
    pub unit: &'static str,
}

impl Load {
    /// A sustained load whose peak is [`PEAK_FACTOR`] times as much.
    #[must_use]
    pub fn sustained(sustained: f64, unit: &'static str) -> Self {
        Self { sustained, peak: sustained * PEAK_FACTOR, unit }
    }
}

/// What of a sizing breaks first when the load grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakingPoint<'a> {
    /// The figure with the least headroom.
    pub figure: &'a Figure,
    /// The load at which it is exhausted, in the unit of [`Sizing::load`].
    pub at: f64,
}

/// Figures, in the order in which they follow from one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizing {
    /// The load that they are held against.
    pub load: Load,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// Rounds up, where what floating-point arithmetic adds to a whole number does not count.
pub(crate) fn ceil(value: f64) -> u64 {
    (value * (1.0 - 1e-12)).ceil().max(0.0) as u64
}

impl Sizing {
    /// No figures yet, to be held against this load.
    pub(crate) fn of(load: Load) -> Self {
        Self { load, figures: Vec::new() }
    }

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
        self.figures.push(Figure {
            name,
            value,
            derived,
            unit,
            formula,
            source,
            exhausted_at: None,
            headroom_at_peak: None,
        });
        value
    }

    /// Notes at which load the figure that was derived last is exhausted.
    pub(crate) fn exhausted_at(&mut self, load: f64) {
        let peak = self.load.peak;
        if let Some(figure) = self.figures.last_mut().filter(|_| peak > 0.0 && load.is_finite()) {
            figure.exhausted_at = Some(load);
            figure.headroom_at_peak = Some(load / peak - 1.0);
        }
    }

    /// What breaks first when the load grows: the figure with the least headroom, the first of equals.
    #[must_use]
    pub fn breaks_first(&self) -> Option<BreakingPoint<'_>> {
        self.figures
            .iter()
            .filter_map(|figure| figure.exhausted_at.map(|at| BreakingPoint { figure, at }))
            .min_by(|one, other| one.at.total_cmp(&other.at))
    }

    /// The figure of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}
