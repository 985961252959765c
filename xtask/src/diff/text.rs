//! A difference as text: callouts first, then the stacks, then a line of counts.

use std::fmt::{self, Write as _};

use cfn::{
    Json,
    diff::{
        CalloutKind, Certainty, Change, Counts, Difference, PropertyChange, ResourceDifference,
        StackDifference, ValueChange,
    },
    to_canonical_bytes,
};

/// A longer value is cut; `--json` has it whole.
const VALUE_CHARACTERS_MAX: usize = 100;

/// How long a line of a callout gets.
const COLUMNS: usize = 110;

/// ANSI colours (ECMA-48, Select Graphic Rendition).
#[derive(Clone, Copy)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
    Bold = 1,
    Dim = 2,
}

struct Painter(bool);

impl Painter {
    fn paint(&self, colour: Colour, text: impl fmt::Display) -> String {
        let text = clean(&text.to_string());
        if self.0 { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text }
    }

    fn sign(&self, change: Change, text: impl fmt::Display) -> String {
        let (sign, colour) = match change {
            Change::Added => ('+', Colour::Green),
            Change::Removed => ('-', Colour::Red),
            Change::Changed | Change::Reordered => ('~', Colour::Yellow),
        };
        self.paint(colour, format!("{sign} {text}"))
    }
}

/// The text. `from` and `to` name the sides.
pub(super) fn render(difference: &Difference, from: &str, to: &str, colour: bool) -> String {
    let painter = Painter(colour);
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = write(&mut out, difference, from, to, &painter);
    out
}

fn write(out: &mut String, difference: &Difference, from: &str, to: &str, painter: &Painter) -> fmt::Result {
    if difference.is_empty() {
        return writeln!(out, "no differences: {to} is as {from}");
    }
    writeln!(out, "{}", painter.paint(Colour::Bold, format!("from {from} to {to}")))?;
    if difference.manifest.iter().any(|change| change.pointer == "/environment") {
        writeln!(
            out,
            "these are two environments; what is told is how it would be to deploy one over the other"
        )?;
    }
    callouts(out, difference, painter)?;
    for stack in &difference.stacks {
        writeln!(out)?;
        self::stack(out, stack, painter)?;
    }
    if !difference.manifest.is_empty() {
        writeln!(out, "\n{}", painter.paint(Colour::Bold, "manifest"))?;
        for change in &difference.manifest {
            writeln!(out, "  {}", value(change, painter))?;
        }
    }
    for file in &difference.files {
        writeln!(out, "\n{}", painter.sign(file.change, &file.path))?;
        for line in &file.lines {
            writeln!(out, "  {:>5} {}", line.number, painter.sign(line.change, &line.text))?;
        }
    }
    writeln!(out, "\n{}", painter.paint(Colour::Bold, summary(&difference.counts)))
}

fn callouts(out: &mut String, difference: &Difference, painter: &Painter) -> fmt::Result {
    let mut last = None;
    let mut following: Vec<String> = Vec::new();
    for callout in &difference.callouts {
        if last == Some(CalloutKind::Replacement) && callout.kind != CalloutKind::Replacement {
            follow(out, &following)?;
        }
        if last != Some(callout.kind) {
            let title = format!("! {}", callout.kind.words());
            writeln!(out, "\n{}", painter.paint(Colour::Magenta, title))?;
            last = Some(callout.kind);
        }
        if callout.follows {
            following.push(format!(
                "{}/{}",
                callout.stack,
                callout.logical_id.as_deref().unwrap_or_default()
            ));
            continue;
        }
        let place = match (&callout.logical_id, &callout.resource_type) {
            (Some(id), Some(kind)) => {
                let path = callout.path.as_ref().map(|path| format!("  {path}")).unwrap_or_default();
                format!("{}: {id}{path}  {kind}", callout.stack)
            }
            _ => callout.stack.clone(),
        };
        writeln!(out, "  {}", painter.paint(Colour::Bold, place))?;
        for message in &callout.messages {
            wrapped(out, "      ", message)?;
        }
    }
    if last == Some(CalloutKind::Replacement) { follow(out, &following) } else { Ok(()) }
}

/// Resources that are replaced because others are, which say why.
fn follow(out: &mut String, resources: &[String]) -> fmt::Result {
    if resources.is_empty() {
        return Ok(());
    }
    wrapped(out, "  ", &format!("and what is made with these: {}", resources.join(", ")))
}

/// A text in lines of at most [`COLUMNS`], where its words allow that; the lines after the first are indented
/// further.
fn wrapped(out: &mut String, indent: &str, text: &str) -> fmt::Result {
    let mut line = indent.to_owned();
    let mut empty = true;
    for word in clean(text).split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            writeln!(out, "{line}")?;
            line = format!("{indent}  ");
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    writeln!(out, "{line}")
}

fn stack(out: &mut String, stack: &StackDifference, painter: &Painter) -> fmt::Result {
    let title = format!("{} ({})", stack.id, stack.name);
    match stack.change {
        Change::Added | Change::Removed => writeln!(out, "{}", painter.sign(stack.change, title))?,
        _ => writeln!(out, "{}", painter.paint(Colour::Bold, title))?,
    }
    for change in stack.entry.iter().chain(&stack.template) {
        writeln!(out, "  {}", value(change, painter))?;
    }
    for resource in &stack.resources {
        writeln!(out, "  {}", headline(resource, &stack.id, painter))?;
        if resource.change == Change::Changed {
            for change in &resource.changes {
                writeln!(out, "      {}", property(change, painter))?;
            }
        }
    }
    Ok(())
}

fn headline(resource: &ResourceDifference, stack: &str, painter: &Painter) -> String {
    let mut line = painter.sign(resource.change, &resource.logical_id);
    if let Some(path) = &resource.path {
        line.push_str("  ");
        line.push_str(&painter.paint(Colour::Dim, path));
    }
    line.push_str("  ");
    line.push_str(&clean(&resource.kind));
    if let Some(counterpart) = &resource.counterpart {
        let other = if counterpart.stack == stack {
            counterpart.logical_id.clone()
        } else {
            format!("{}/{}", counterpart.stack, counterpart.logical_id)
        };
        let verb = if resource.change == Change::Added { "was" } else { "becomes" };
        line.push_str(&clean(&format!("  ({verb} {other})")));
    }
    match resource.replacement.as_ref().map(|replacement| replacement.certainty) {
        Some(Certainty::Certain) => {
            line.push_str("  ");
            line.push_str(&painter.paint(Colour::Red, "replaced"));
        }
        Some(Certainty::Possible) => {
            line.push_str("  ");
            line.push_str(&painter.paint(Colour::Yellow, "may be replaced"));
        }
        None => {}
    }
    line
}

fn property(change: &PropertyChange, painter: &Painter) -> String {
    let line = value(&change.value, painter);
    match change.replacement {
        Some(Certainty::Certain) => format!("{line}  {}", painter.paint(Colour::Red, "(replaces)")),
        Some(Certainty::Possible) => {
            format!("{line}  {}", painter.paint(Colour::Yellow, "(may replace)"))
        }
        None => line,
    }
}

fn value(change: &ValueChange, painter: &Painter) -> String {
    let place = change.pointer.strip_prefix("/Properties").unwrap_or(&change.pointer);
    let place = place.strip_prefix('/').unwrap_or(place);
    let text = match (&change.before, &change.after) {
        _ if change.change == Change::Reordered => format!("{place}: in another order"),
        (Some(before), Some(after)) => format!("{place}: {} -> {}", cut(before), cut(after)),
        (None, Some(only)) | (Some(only), None) => format!("{place}: {}", cut(only)),
        (None, None) => place.to_owned(),
    };
    painter.sign(change.change, text)
}

/// What a template holds must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A value on one line.
fn cut(value: &Json) -> String {
    let text = String::from_utf8(to_canonical_bytes(value)).unwrap_or_default();
    if text.chars().count() <= VALUE_CHARACTERS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARACTERS_MAX - 1).chain(['…']).collect()
}

fn summary(counts: &Counts) -> String {
    let mut details = Vec::new();
    for (count, what) in [
        (counts.replaced, "replaced"),
        (counts.may_be_replaced, "maybe replaced"),
        (counts.renamed, "renamed"),
    ] {
        if count > 0 {
            details.push(format!("{count} {what}"));
        }
    }
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    let plural =
        |count: usize, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let mut line = format!(
        "{}: resources {} added, {} removed, {} changed{details}; {}",
        plural(counts.stacks, "stack"),
        counts.added,
        counts.removed,
        counts.changed,
        plural(counts.others, "other change"),
    );
    if counts.files > 0 {
        line.push_str(&format!("; {}", plural(counts.files, "file")));
    }
    line.push_str(&format!("; {}", plural(counts.callouts, "callout")));
    line
}
