//! What a person sees while something runs: a block that is drawn anew on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stdout};

/// Samples of a sparkline.
const SPARKS: usize = 60;

/// Seconds between lines where there is no terminal.
const LINE_EVERY: f64 = 5.0;

/// What is shown.
pub(crate) trait Scene {
    /// When, in seconds from the beginning.
    fn at_seconds(&self) -> f64;
    /// The block, a line each; a line is shorter than a terminal is wide.
    fn block(&self) -> Vec<String>;
    /// The same in one line.
    fn line(&self) -> String;
}

/// Draws scenes.
pub(crate) struct Live {
    terminal: bool,
    drawn: usize,
    next_line: f64,
}

impl Live {
    /// On standard output, whatever that is.
    pub(crate) fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0, next_line: 0.0 }
    }

    /// A step begins.
    pub(crate) fn step(&mut self, words: &str) {
        if !self.terminal {
            println!("{words}");
            self.next_line = 0.0;
        }
    }

    /// Whether a scene at that time would be seen.
    pub(crate) fn wants(&self, at_seconds: f64) -> bool {
        self.terminal || at_seconds >= self.next_line
    }

    /// Shows how it is now.
    pub(crate) fn show(&mut self, scene: &impl Scene) {
        if self.terminal {
            let block = scene.block();
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            let lines: String = block.iter().map(|line| format!("\x1b[K{line}\n")).collect();
            self.drawn = block.len();
            // Nobody looks any more where this fails; what runs goes on, and its report tells.
            let _ = write!(stdout(), "{up}{lines}").and_then(|()| stdout().flush());
            return;
        }
        let now = scene.at_seconds();
        if now >= self.next_line {
            println!("{}", scene.line());
            self.next_line = now + LINE_EVERY;
        }
    }
}

/// Minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// The last values as eighths of the greatest.
pub(crate) fn sparkline(values: &[f64]) -> String {
    let values = values.get(values.len().saturating_sub(SPARKS)..).unwrap_or_default();
    let most = values.iter().copied().fold(0.0, f64::max).max(1e-9);
    let spark = |value: &f64| match (value / most * 8.0).ceil() as u32 {
        0 => ' ',
        eighths => char::from_u32(0x2580 + eighths.min(8)).unwrap_or(' '),
    };
    values.iter().map(spark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_eighths_of_the_greatest() {
        assert_eq!(sparkline(&[0.0, 1.0, 8.0]), " ▁█");
        assert_eq!((clock(-1.0), clock(125.9)), ("0:00".to_owned(), "2:05".to_owned()));
    }
}
