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
