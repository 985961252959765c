//! `cargo xtask capacity`.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use platform::Environment;

/// The derived sizes of an environment: partitions, consumers, brokers, storage, connections, each with its
/// formula and where that comes from.
///
/// Example: cargo xtask capacity --env prod
#[derive(Debug, clap::Args)]
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
    let groups = [("trades", &sizes.trades), ("kafka", &sizes.kafka)];
    if arguments.json {
        let json: serde_json::Map<_, _> = groups
            .into_iter()
            .map(|(group, sizing)| {
                let figures: Vec<_> = sizing
                    .figures
                    .iter()
                    .map(|figure| {
                        serde_json::json!({
                            "name": figure.name, "value": figure.value, "derived": figure.derived, "unit": figure.unit,
                            "formula": figure.formula, "source": figure.source, "overridden": figure.is_overridden(),
                        })
                    })
                    .collect();
                (group.to_owned(), figures.into())
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", table(&groups));
    Ok(ExitCode::SUCCESS)
}

fn table(groups: &[(&str, &capacity::Sizing)]) -> String {
    let mut text = String::new();
    for (group, sizing) in groups {
        text.push_str(&format!("{group}\n"));
        for figure in &sizing.figures {
            text.push_str(&format!("  {:<34} {:>6} {}\n", figure.name, figure.value, figure.unit));
            text.push_str(&format!("      = {}\n", figure.formula));
            if figure.is_overridden() {
                text.push_str(&format!("      set in the environment instead of {}\n", figure.derived));
            }
            text.push_str(&format!("      {}\n", figure.source));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn the_figures_of_an_environment_read_well() {
        let environment = Environment::load(&workspace::root(), "prod").unwrap();
        let sizes = platform::sizes(&environment).unwrap();
        insta::assert_snapshot!(table(&[("trades", &sizes.trades), ("kafka", &sizes.kafka)]));
    }
}
