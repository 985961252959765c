//! What a person sees while a course runs: a block that is drawn anew on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stdout};

use super::figures::Sample;

/// Samples of a sparkline.
const SPARKS: usize = 60;

/// Seconds between lines where there is no terminal.
const LINE_EVERY: f64 = 5.0;

/// What is shown.
pub(super) struct Scene<'a> {
    /// The step, in words.
    pub(super) step: &'a str,
    /// Seconds that the whole course takes.
    pub(super) seconds: f64,
    pub(super) samples: &'a [Sample],
    /// Why the number of consumers is what it is.
    pub(super) reason: &'a str,
}

/// Draws scenes.
pub(super) struct View {
    terminal: bool,
    drawn: usize,
    next_line: f64,
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// The last values as eighths of the greatest.
fn sparkline(values: &[f64]) -> String {
    let values = values.get(values.len().saturating_sub(SPARKS)..).unwrap_or_default();
    let most = values.iter().copied().fold(0.0, f64::max).max(1e-9);
    let spark = |value: &f64| match (value / most * 8.0).ceil() as u32 {
        0 => ' ',
        eighths => char::from_u32(0x2580 + eighths.min(8)).unwrap_or(' '),
    };
    values.iter().map(spark).collect()
}

impl Scene<'_> {
    fn now(&self) -> Sample {
        self.samples.last().copied().unwrap_or_default()
    }

    /// The block, a line each.
    fn block(&self) -> Vec<String> {
        let now = self.now();
        let course =
            |value: fn(&Sample) -> f64| sparkline(&self.samples.iter().map(value).collect::<Vec<_>>());
        let short: String = self.reason.chars().take(100).collect();
        vec![
            format!("{} of {}  {}", clock(now.at_seconds), clock(self.seconds), self.step),
            format!("  in        {:>8.1}/s    {}", now.in_per_second, course(|sample| sample.in_per_second)),
            format!(
                "  done      {:>8.1}/s    {}",
                now.out_per_second,
                course(|sample| sample.out_per_second)
            ),
            format!("  lag       {:>8.0}      {}", now.lag, course(|sample| sample.lag)),
            format!(
                "  consumers {:>3} of {:>2}      {}",
                now.ready,
                now.desired,
                course(|sample| f64::from(sample.ready))
            ),
            format!(
                "  age       p50 {:.2} s, p99 {:.2} s  {}",
                now.age_p50,
                now.age_p99,
                course(|sample| sample.age_p99)
            ),
            format!("  {short}"),
        ]
    }

    fn line(&self) -> String {
        let now = self.now();
        format!(
            "{:>6}  in {:>7.1}/s  done {:>7.1}/s  lag {:>7.0}  consumers {:>2} of {:>2}  age p50 {:>6.2} s p99 {:>6.2} s",
            clock(now.at_seconds),
            now.in_per_second,
            now.out_per_second,
            now.lag,
            now.ready,
            now.desired,
            now.age_p50,
            now.age_p99
        )
    }
}

impl View {
    pub(super) fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0, next_line: 0.0 }
    }

    /// A step begins.
    pub(super) fn step(&mut self, words: &str) {
        if !self.terminal {
            println!("{words}");
            self.next_line = 0.0;
        }
    }

    /// Shows how it is now.
    pub(super) fn show(&mut self, scene: &Scene<'_>) {
        if self.terminal {
            let block = scene.block();
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            let lines: String = block.iter().map(|line| format!("\x1b[K{line}\n")).collect();
            self.drawn = block.len();
            // Nobody looks any more where this fails; the course goes on, and its report tells.
            let _ = write!(stdout(), "{up}{lines}").and_then(|()| stdout().flush());
            return;
        }
        let now = scene.now().at_seconds;
        if now >= self.next_line {
            println!("{}", scene.line());
            self.next_line = now + LINE_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_reads_well() {
        let sample = |at: f64| Sample {
            at_seconds: at,
            target_per_second: 1000.0,
            in_per_second: 100.0 * at,
            out_per_second: 50.0 * at,
            lag: 500.0 * at,
            desired: 12,
            ready: 11,
            age_p50: 0.25,
            age_p99: at,
        };
        let samples: Vec<Sample> = (0..=10).map(|at| sample(f64::from(at))).collect();
        let scene =
            Scene { step: "step 3 of 5: 1000 messages/s", seconds: 240.0, samples: &samples, reason: "why" };
        insta::assert_snapshot!(format!("{}\n---\n{}", scene.block().join("\n"), scene.line()));
        assert_eq!(sparkline(&[0.0, 1.0, 8.0]), " ▁█");
    }
}
