//! What a person sees while something runs: a block that is drawn anew on a terminal, a line now and then elsewhere.

use std::{
    fs::File,
    io::{IsTerminal, Write, stdout},
    process::{Command, Stdio},
};

/// Samples of a sparkline, at most.
const SPARKS: usize = 60;

/// Columns where nobody says how many there are.
const WIDTH: usize = 80;

/// In fewer columns nothing can be told.
pub(crate) const WIDTH_MIN: usize = 40;

/// Seconds between lines where there is no terminal.
const LINE_EVERY: f64 = 5.0;

/// What is shown.
pub(crate) trait Scene {
    /// When, in seconds from the beginning.
    fn at_seconds(&self) -> f64;
    /// The block, a line each, for a terminal of so many columns; what is longer is cut.
    fn block(&self, width: usize) -> Vec<String>;
    /// The same in one line.
    fn line(&self) -> String;
}

/// Draws scenes.
pub(crate) struct Live {
    terminal: bool,
    drawn: usize,
    /// Columns when it was drawn.
    width: usize,
    next_line: f64,
}

impl Live {
    /// On standard output, whatever that is.
    pub(crate) fn new() -> Self {
        let understands = std::env::var_os("TERM").is_some_and(|kind| kind != "dumb");
        Self { terminal: stdout().is_terminal() && understands, drawn: 0, width: 0, next_line: 0.0 }
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
            let width = columns();
            if width != self.width {
                // What was drawn is wrapped anew by now: it stays, and the next is drawn below it.
                (self.width, self.drawn) = (width, 0);
            }
            let block: Vec<String> = scene.block(width).iter().map(|line| cut(line, width)).collect();
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

/// The terminal's columns now: it may be resized while something runs.
fn columns() -> usize {
    let size = || {
        let terminal = File::open("/dev/tty").ok()?;
        let told = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(told.stdout).ok()?;
        text.split_whitespace().nth(1)?.parse().ok().filter(|columns| *columns > 0)
    };
    size().unwrap_or(WIDTH).max(WIDTH_MIN)
}

/// As much of a text as fits.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// The last values as eighths of the greatest of them: as many as fit into so many columns, and at most 60.
pub(crate) fn sparkline(values: &[f64], columns: usize) -> String {
    let values = values.get(values.len().saturating_sub(columns.min(SPARKS))..).unwrap_or_default();
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
        assert_eq!(sparkline(&[0.0, 1.0, 8.0], 60), " ▁█");
        assert_eq!(sparkline(&[0.0, 1.0, 8.0], 2), "▁█", "the last");
        assert_eq!((clock(-1.0), clock(125.9)), ("0:00".to_owned(), "2:05".to_owned()));
    }
}
