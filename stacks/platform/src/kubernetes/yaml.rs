//! YAML of JSON, in the block style that people read. Texts are quoted as JSON has it unless they are plain beyond doubt, so
//! that `true`, `1` or what a placeholder is filled with stay texts; texts of several lines are blocks.

use serde_json::Value as Json;

/// Texts that YAML 1.1 or 1.2 takes for something else.
const OTHER_THAN_TEXT: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// What a reader looks for first. The other keys follow by their names, in whatever order a map has them: the same
/// resources give the same bytes in every build.
const FIRST: [&str; 4] = ["apiVersion", "kind", "metadata", "name"];

/// Writes a document.
pub(super) fn write(document: &Json, text: &mut String) {
    block(document, 0, false, text);
}

/// Writes the entries of a map or a list, each on a line of its own. `begun` says that the indentation of the first is
/// there already: it follows a dash.
fn block(json: &Json, depth: usize, begun: bool, text: &mut String) {
    let indent = |text: &mut String, first: bool| {
        if !(first && begun) {
            text.extend(std::iter::repeat_n("  ", depth));
        }
    };
    match json {
        Json::Object(map) if !map.is_empty() => {
            let mut entries: Vec<(&String, &Json)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| {
                (FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()), *key)
            });
            for (place, (key, value)) in entries.into_iter().enumerate() {
                indent(text, place == 0);
                scalar(key, text);
                text.push(':');
                under(value, depth, text);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for (place, item) in items.iter().enumerate() {
                indent(text, place == 0);
                text.push_str("- ");
                if is_block(item) {
                    block(item, depth + 1, true, text);
                } else {
                    leaf(item, depth, text);
                }
            }
        }
        other => leaf(other, depth, text),
    }
}

/// Writes what a key has.
fn under(value: &Json, depth: usize, text: &mut String) {
    if is_block(value) {
        text.push('\n');
        block(value, depth + 1, false, text);
    } else {
        text.push(' ');
        leaf(value, depth, text);
    }
}

fn is_block(json: &Json) -> bool {
    match json {
        Json::Object(map) => !map.is_empty(),
        Json::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn leaf(json: &Json, depth: usize, text: &mut String) {
    match json {
        Json::String(value) if has_lines(value) => {
            text.push_str(if value.ends_with('\n') { "|\n" } else { "|-\n" });
            for line in value.lines() {
                if !line.is_empty() {
                    text.extend(std::iter::repeat_n("  ", depth + 1));
                    text.push_str(line);
                }
                text.push('\n');
            }
            return;
        }
        Json::String(value) => scalar(value, text),
        other => text.push_str(&other.to_string()),
    }
    text.push('\n');
}

/// Whether a text is written as a block: it has several lines, and a block gives back just these.
fn has_lines(value: &str) -> bool {
    value.contains('\n')
        && !value.starts_with([' ', '\n'])
        && !value.ends_with("\n\n")
        && value
            .chars()
            .all(|c| c == '\n' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')))
}

fn scalar(value: &str, text: &mut String) {
    let plain = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        && !OTHER_THAN_TEXT.contains(&value.to_ascii_lowercase().as_str());
    if plain {
        text.push_str(value);
    } else {
        // JSON text is YAML text, but for what YAML takes for the end of a line and JSON does not.
        for c in Json::from(value).to_string().chars() {
            match c {
                '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    text.push_str(&format!("\\u{:04x}", c as u32))
                }
                _ => text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn written(json: &Json) -> String {
        let mut text = String::new();
        write(json, &mut text);
        text
    }

    #[test]
    fn it_reads_as_people_write_it() {
        let json = json!({
            "kind": "K", "empty": {}, "none": [], "image": "${{ image }}",
            "list": [{"name": "a", "deep": {"x": [1, true, null]}}, {"name": "b"}, "plain", ["nested"]],
            "text": "first\n  second\n\nlast\n",
        });
        assert_eq!(
            written(&json),
            "kind: K\nempty: {}\nimage: \"${{ image }}\"\nlist:\n  - name: a\n    deep:\n      x:\n        - 1\n        - true\n        - null\n  - name: b\n  - plain\n  - - nested\nnone: []\ntext: |\n  first\n    second\n\n  last\n"
        );
    }

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        let texts = [
            "",
            "true",
            "No",
            "1",
            "1e3",
            "0x1f",
            "~",
            "- a",
            "a: b",
            "a #b",
            "'q'",
            "\"q\"",
            "\\",
            "é",
            "a\tb",
            "a\nb",
            "a\nb\n",
            "a\nb\n\n",
            "\na",
            " a\nb",
            "a \n b",
            "a\r\nb",
            "12:30",
            "25%",
            "*",
            "&a",
            "!t",
            "null",
            "a\u{85}b\nc",
            "a\u{2028}b\nc",
            "\u{feff}a",
            "2026-01-01",
            ".5",
            "a b",
            "{x}",
            "[y]",
            "${{ z }}",
            "@at",
            "`tick`",
            "y",
            "=",
            "<<",
            "---",
            "trailing\n  ",
        ];
        for text in texts {
            let json =
                json!({ text: text, "list": [text, { "k": text }], "map": { "deep": { text: [text] } } });
            let written = written(&json);
            let read = Json::deserialize(serde_yaml_ng::Deserializer::from_str(&written));
            assert_eq!(
                read.unwrap_or_else(|error| panic!("{text:?}: {error}\n{written}")),
                json,
                "{written}"
            );
        }
    }
}
