//! `cargo xtask capacity`.

use std::{path::Path, process::ExitCode};

use ::capacity::{BreakingPoint, Load, Sizing};
use anyhow::Result;
use platform::Environment;

/// The derived sizes of an environment, each with its formula.
///
/// The derived sizes of an environment: partitions, consumers, brokers, shards, storage, connections, each with its
/// formula, where that comes from, and up to which load it lasts; and of each system what breaks first.
///
/// Example: cargo xtask capacity --env prod
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CapacityArgs {
    /// The environment: a file in environments/.
    #[arg(long, default_value = "local")]
    env: String,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &CapacityArgs, root: &Path) -> Result<ExitCode> {
    let environment = Environment::load(root, &arguments.env)?;
    let sizes = platform::sizes(&environment)?;
    let groups = sizes.groups();
    if arguments.json {
        let json: serde_json::Map<_, _> =
            groups.into_iter().map(|(group, sizing)| (group.to_owned(), json(sizing))).collect();
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", table(&groups));
    Ok(ExitCode::SUCCESS)
}

fn json(sizing: &Sizing) -> serde_json::Value {
    let figures: Vec<_> = sizing
        .figures
        .iter()
        .map(|figure| {
            serde_json::json!({
                "name": figure.name, "value": figure.value, "derived": figure.derived, "unit": figure.unit,
                "formula": figure.formula, "source": figure.source, "overridden": figure.is_overridden(),
                "exhausted_at": figure.exhausted_at, "headroom_at_peak": figure.headroom_at_peak,
            })
        })
        .collect();
    let breaks_first = sizing.breaks_first().map(|point| {
        serde_json::json!({
            "figure": point.figure.name, "at": point.at, "headroom_at_peak": point.figure.headroom_at_peak,
        })
    });
    serde_json::json!({
        "load": {"sustained": sizing.load.sustained, "peak": sizing.load.peak, "unit": sizing.load.unit},
        "figures": figures,
        "breaks_first": breaks_first,
    })
}

fn table(groups: &[(&str, &Sizing)]) -> String {
    let mut text = String::new();
    for (group, sizing) in groups {
        let Load { sustained, peak, unit } = sizing.load;
        text.push_str(&format!("{group}: {} {unit}, {} at the peak\n", number(sustained), number(peak)));
        for figure in &sizing.figures {
            text.push_str(&format!("  {:<34} {:>6} {}\n", figure.name, figure.value, figure.unit));
            text.push_str(&format!("      = {}\n", figure.formula));
            if figure.is_overridden() {
                text.push_str(&format!("      set in the environment instead of {}\n", figure.derived));
            }
            text.push_str(&format!("      {}\n", figure.source));
            if let (Some(at), Some(headroom)) = (figure.exhausted_at, figure.headroom_at_peak) {
                text.push_str(&format!(
                    "      up to {} {unit}: {} the peak\n",
                    number(at),
                    beside_the_peak(headroom)
                ));
            }
        }
        if let Some(BreakingPoint { figure, at }) = sizing.breaks_first() {
            text.push_str(&format!(
                "  what breaks first: {}, at {} {unit}{}\n",
                figure.name,
                number(at),
                if at < peak { ", which is less than the peak" } else { "" }
            ));
        }
    }
    text
}

/// A number with as many digits as a reader needs.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A headroom in words.
fn beside_the_peak(headroom: f64) -> String {
    let percent = (headroom * 100.0).round();
    if percent > 0.0 {
        format!("{percent:.0}% more than")
    } else if percent < 0.0 {
        format!("{:.0}% less than", -percent)
    } else {
        "just".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_figures_of_an_environment_read_well() {
        let environment = Environment::load(&workspace::root(), "prod").unwrap();
        let sizes = platform::sizes(&environment).unwrap();
        insta::assert_snapshot!(table(&sizes.groups()));
    }

    #[test]
    fn machines_are_told_what_breaks_first() {
        let environment = Environment::load(&workspace::root(), "prod").unwrap();
        let ledger = json(&platform::sizes(&environment).unwrap().ledger);
        assert_eq!(ledger["breaks_first"]["figure"], "partitions");
        assert_eq!(ledger["breaks_first"]["at"], 750.0);
        assert_eq!(ledger["load"]["peak"], 2500.0);
        assert_eq!(ledger["figures"][0]["exhausted_at"], 750.0);
    }
}
