//! A plan as text.

use std::fmt::{self, Write as _};

use super::{Action, Part, Plan, Recovery, Step};

/// The text: the waves with each step's reason, then what is left alone, then a line of counts.
#[must_use]
pub fn render(plan: &Plan, environment: &str) -> String {
    let mut text = String::new();
    // Writing to a text does not fail.
    let _ = write(&mut text, plan, environment);
    text
}

fn write(out: &mut String, plan: &Plan, environment: &str) -> fmt::Result {
    if plan.waves.is_empty() {
        writeln!(out, "{environment} has no stacks")?;
    }
    for (index, wave) in plan.waves.iter().enumerate() {
        let side = if wave.len() > 1 { ", side by side" } else { "" };
        writeln!(out, "wave {}{side}", index + 1)?;
        for step in wave {
            line(out, step)?;
        }
    }
    if !plan.left.is_empty() {
        writeln!(out, "left alone")?;
        for step in &plan.left {
            line(out, step)?;
        }
    }
    let count = |what: fn(&Action) -> bool| plan.steps().filter(|step| what(&step.action)).count();
    let counts: Vec<String> = [
        ("to create", count(|action| *action == Action::Create)),
        ("to update", count(|action| *action == Action::Update)),
        ("to look at again", count(|action| *action == Action::Follow)),
        ("to recover first", count(|action| matches!(action, Action::Recover(_)))),
        ("to wait for first", count(|action| *action == Action::Wait)),
        ("to delete", count(|action| *action == Action::Delete)),
        ("blocked", count(|action| matches!(action, Action::Blocked { .. }))),
        ("as they should be", count(|action| *action == Action::Nothing)),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .map(|(what, count)| format!("{count} {what}"))
    .collect();
    if !counts.is_empty() {
        writeln!(out, "{environment}: {}", counts.join(", "))?;
    }
    for step in plan.steps() {
        if let Action::Blocked { way_out } = &step.action {
            writeln!(out, "{way_out}")?;
        }
    }
    Ok(())
}

fn line(out: &mut String, step: &Step) -> fmt::Result {
    let part = match step.part {
        Part::Whole => "",
        Part::First => " (first of two steps)",
        Part::Last => " (second of two steps)",
    };
    writeln!(out, "  {:<8} {:<32} {}{part}", verb(&step.action), step.name, step.reason)
}

fn verb(action: &Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Follow => "follow",
        Action::Nothing => "nothing",
        Action::Recover(Recovery::Recreate) => "recreate",
        Action::Recover(Recovery::GoBack) => "go back",
        Action::Wait => "wait",
        Action::Delete => "delete",
        Action::Leave => "leave",
        Action::Blocked { .. } => "blocked",
    }
}
