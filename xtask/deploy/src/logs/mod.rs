//! Logs: of functions from CloudWatch Logs, of workloads from their pods or, on one machine, from the local
//! environment. What is asked of whom is decided in [`sources`], what was shown already in [`tail`]; both are pure.

pub mod functions;
pub mod pods;
pub mod sources;
pub mod tail;

use std::io::Write as _;

/// How a message is shown: whose it is, and what it says.
pub type Print<'a> = &'a dyn Fn(&str, &str) -> std::io::Result<()>;

/// A message, as it is printed: whose, then what. Structured lines stay as they are after the name, for `jq`.
///
/// # Errors
///
/// When nobody reads.
pub fn print(whose: &str, message: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in message.trim_end_matches(['\n', '\r']).split('\n') {
        writeln!(out, "{whose}  {line}")?;
    }
    out.flush()
}
