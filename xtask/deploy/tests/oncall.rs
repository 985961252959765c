//! The page for who is on call says what the tool says: every quoted text is in the code, every status and every alarm
//! has its line.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use deploy_engine::plan::status::{Footing, footing};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    fs::read_to_string(workspace().join("xtask/deploy/ONCALL.md")).unwrap()
}

/// All Rust below a directory, as its texts read: a quote within one is written with a backslash.
fn code(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap().replace("\\\"", "\""));
        }
    }
}

/// The parts of a quoted line between what differs, each of which must be in the code.
fn parts(line: &str) -> impl Iterator<Item = &str> {
    line.split('…').map(str::trim).filter(|part| part.chars().any(char::is_alphanumeric))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn what_is_quoted_is_what_is_printed() {
    let mut code = String::new();
    for directory in ["xtask/deploy/src", "xtask/src"] {
        self::code(&workspace().join(directory), &mut code);
    }
    let page = page();
    let (mut inside, mut lines) = (false, 0);
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```text";
        } else if inside {
            lines += 1;
            for part in parts(line) {
                assert!(code.contains(part), "nothing prints `{part}`; the page says: {line}");
            }
        }
    }
    assert!(lines > 40, "{lines} lines are quoted");
    // In tables, what ends as a sentence or begins as the rest of one is the tool's.
    for line in page.lines().filter(|line| line.starts_with('|')) {
        for text in quoted(line)
            .filter(|text| text.ends_with('.') || text.ends_with("anew") || text.starts_with([',', ':']))
        {
            assert!(code.contains(text), "nothing prints `{text}`");
        }
    }
}

/// What makes an error of a text.
const MAKES: [&str; 7] =
    ["bail!(", "anyhow!(", "ensure!(", "#[error(", "told(error, ", "with_context(", ".context("];

/// The texts of all errors that a file's code makes, as they are written.
fn errors(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for makes in MAKES {
        for (at, _) in code.match_indices(makes) {
            let rest = &code[at + makes.len()..];
            let Some((before, text)) = rest.split_once('"') else { continue };
            // A text that is made elsewhere, or another error within.
            if before.len() > 200 || before.contains(';') || MAKES.iter().any(|other| before.contains(other))
            {
                continue;
            }
            let escaped = text.replace("\\\"", "\u{1}");
            let end = escaped.find('"').unwrap();
            found.push(escaped[..end].replace('\u{1}', "\""));
        }
    }
    found
}

/// The parts of an error's text that do not differ from one time to the next and tell it from others.
fn telling(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        plain.push_str(before);
        plain.push('\u{1}');
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    for end in ["\\n", ". ", "; ", ": "] {
        plain = plain.replace(end, "\u{1}");
    }
    let is_kept = |c: char| c.is_alphanumeric() || c == '`' || c == ')';
    plain
        .split('\u{1}')
        .map(|part| part.trim_matches(|c| !is_kept(c)).to_owned())
        .filter(|part| part.contains(' ') && part.chars().filter(|c| c.is_alphabetic()).count() >= 8)
        .collect()
}

/// What the program may say, the page knows: whoever looks for the line that was printed finds it.
#[test]
fn every_error_has_its_line() {
    fn look(directory: &Path, page: &str, count: &mut usize, missing: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, page, count, missing);
                continue;
            }
            // A CloudFormation for tests, and what is tried on it.
            if ["simulation.rs", "properties.rs"].iter().any(|name| path.ends_with(name)) {
                continue;
            }
            let code = fs::read_to_string(&path).unwrap();
            let code = code.split("mod tests {").next().unwrap();
            for error in errors(code) {
                let telling = telling(&error);
                *count += usize::from(!telling.is_empty());
                if !telling.is_empty() && !telling.iter().any(|part| page.contains(part.as_str())) {
                    missing.push(format!("{}: {error}", path.display()));
                }
            }
        }
    }
    let page = page().split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut count, mut missing) = (0, Vec::new());
    look(&workspace().join("xtask/deploy/src"), &page, &mut count, &mut missing);
    assert!(missing.is_empty(), "ONCALL.md has no line for:\n{}", missing.join("\n"));
    assert!(count > 200, "{count} errors were found");
}

#[test]
fn errors_are_found_in_code() {
    let code = r#"
        bail!("the stack {name} is \"{}\": see {why}");
        Err(error) => Err(told(error, &format!("cannot list {bucket}"))),
        let x = bail!(other); let y = "nothing";
    "#;
    assert_eq!(errors(code), ["the stack {name} is \"{}\": see {why}", "cannot list {bucket}"]);
    assert_eq!(telling("the stack {name} failed: what it says is {}"), ["the stack", "what it says is"]);
}

#[test]
fn every_status_that_is_not_well_has_its_line() {
    let page = page();
    for status in aws_sdk_cloudformation::types::StackStatus::values() {
        let well = matches!(footing(Some(status)), Footing::Whole | Footing::Absent);
        assert!(well || page.contains(&format!("`{status}`")), "{status}");
    }
    assert!(page.contains("`UPDATE_ROLLBACK_COMPLETE`"));
}

#[test]
fn every_alarm_has_its_line() {
    let page = page();
    let named: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).flat_map(quoted).collect();
    let is_named = |id: &str| {
        named.iter().any(|name| match name.split_once('…') {
            Some((before, after)) => id.starts_with(before) && id.ends_with(after),
            None => *name == id,
        })
    };
    let environment = platform::Environment::load(&workspace(), "prod").unwrap();
    let assembly = platform::render(&environment).unwrap();
    let mut alarms = 0;
    for template in assembly.templates.values() {
        for (id, resource) in template["Resources"].as_object().unwrap() {
            if resource["Type"] == "AWS::CloudWatch::Alarm" {
                alarms += 1;
                assert!(is_named(id), "{id}");
            }
        }
    }
    for line in assembly.files.values().flat_map(|file| file.lines()) {
        if let Some(name) = line.trim().trim_start_matches("- ").strip_prefix("alert: ") {
            alarms += 1;
            assert!(is_named(name.trim_matches('"')), "{name}");
        }
    }
    assert!(alarms > 30, "{alarms}");
}
