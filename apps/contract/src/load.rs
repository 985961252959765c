//! What all programs that make load can be asked for.

use std::ops::RangeInclusive;

/// The rates, in records per second.
pub const RATE_BOUNDS: RangeInclusive<f64> = 0.1..=100_000.0;

/// How long a run may last, in seconds: up to the twelve hours of the published runs, twice over.
pub const SECONDS_BOUNDS: RangeInclusive<u64> = 1..=86_400;
