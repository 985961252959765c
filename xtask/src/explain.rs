//! `cargo xtask explain`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use cfn::check::{Page, RULES, Severity, nearest_code};

/// What a rule of `check` finds, why it matters, an example, and how to repair or waive it. Without a code: all
/// rules.
///
/// Example: cargo xtask explain FG436
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The rule's code.
    code: Option<String>,
}

pub(crate) fn run(arguments: &ExplainArgs) -> Result<ExitCode> {
    match &arguments.code {
        None => println!("{}", table()),
        Some(code) => println!("{}", page(code)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn table() -> String {
    let lines: Vec<String> = RULES
        .iter()
        .map(|rule| {
            let severity = match rule.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            format!("{}  {severity:7}  {}", rule.code, rule.finds)
        })
        .collect();
    lines.join("\n")
}

fn page(code: &str) -> Result<String> {
    match Page::of(code) {
        Some(page) => Ok(page.to_string()),
        None => {
            let near = nearest_code(code).map(|near| format!(" (is {near} meant?)")).unwrap_or_default();
            bail!("there is no rule {code}{near}; `cargo xtask explain` lists all of them")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_a_rule() {
        assert_eq!(table().lines().count(), RULES.len());
        assert!(table().contains("FG436  error    a door to a Kafka listener that is off"), "{}", table());
    }

    #[test]
    fn a_page_tells_why_shows_an_example_and_how_to_waive() {
        let text = page("fg460").unwrap();
        for part in [
            "may not read its own event source",
            "Found in",
            "Repair:",
            "scope.waive(handle.raw(), \"FG460\"",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn an_unknown_code_names_the_nearest() {
        let error = page("FG4600").unwrap_err().to_string();
        assert!(error.contains("is FG460 meant?"), "{error}");
    }
}
