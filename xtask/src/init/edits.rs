//! Files to be made and places to be changed: planned as a whole before anything is written, so that a place that is
//! not found leaves nothing half done; what is there already is left as it is.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};

/// What was done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is new.
    Made,
    /// It has something more.
    Changed,
}

/// The planned content of files by path relative to the workspace.
#[derive(Debug, Default)]
pub(super) struct Edits {
    files: BTreeMap<String, (String, Outcome)>,
}

impl Edits {
    /// A file that is not there yet, or is as it would be made.
    pub(super) fn make(&mut self, root: &Path, file: &str, text: String) -> Result<()> {
        match std::fs::read_to_string(root.join(file)) {
            Ok(there) if without_layout(&there) == without_layout(&text) => Ok(()),
            Ok(_) => bail!("{file} is there already: choose another name, or remove what has this one"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.files.insert(file.to_owned(), (text, Outcome::Made));
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {file}")),
        }
    }

    /// Changes the planned or present content of a file; `change` gives nothing where a place is not found.
    fn change(
        &mut self,
        root: &Path,
        file: &str,
        what: &str,
        change: impl FnOnce(&str) -> Option<String>,
    ) -> Result<()> {
        let text = match self.files.get(file) {
            Some((text, _)) => text.clone(),
            None => {
                std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?
            }
        };
        let Some(changed) = change(&text) else {
            bail!(
                "{file} has no place `{}`, beside which this would be registered; nothing was written",
                what.trim()
            );
        };
        if changed != text {
            self.files.insert(file.to_owned(), (changed, Outcome::Changed));
        }
        Ok(())
    }

    /// Puts lines before the first line that begins with `place`.
    pub(super) fn before(&mut self, root: &Path, file: &str, place: &str, lines: &str) -> Result<()> {
        self.change(root, file, place, |text| {
            let at = line_that_begins(text, place)?;
            Some(if holds(text, lines) { text.to_owned() } else { insert(text, at, lines) })
        })
    }

    /// Puts lines behind the last line that begins with `place`.
    pub(super) fn after_last(&mut self, root: &Path, file: &str, place: &str, lines: &str) -> Result<()> {
        self.change(root, file, place, |text| {
            let at = starts(text).filter(|at| text[*at..].starts_with(place)).last()?;
            let at = at + text[at..].find('\n').map_or(text.len() - at, |end| end + 1);
            Some(if holds(text, lines) { text.to_owned() } else { insert(text, at, lines) })
        })
    }

    /// Puts lines before the closing brace of the block that begins with `place`.
    pub(super) fn last_of_block(&mut self, root: &Path, file: &str, place: &str, lines: &str) -> Result<()> {
        self.change(root, file, place, |text| {
            let begin = line_that_begins(text, place)?;
            let at = begin + text[begin..].find("\n}\n")? + 1;
            Some(if holds(text, lines) { text.to_owned() } else { insert(text, at, lines) })
        })
    }

    /// Puts an entry at the end of an array whose line begins with `place` and then has its length.
    pub(super) fn list(&mut self, root: &Path, file: &str, place: &str, entry: &str) -> Result<()> {
        self.change(root, file, place, |text| {
            let begin = line_that_begins(text, place)?;
            let number = begin + place.len();
            let digits = text[number..].find(|letter: char| !letter.is_ascii_digit())?;
            let length: usize = text[number..number + digits].parse().ok()?;
            let end = begin + text[begin..].find("\n];\n")? + 1;
            if holds(text, entry) {
                return Some(text.to_owned());
            }
            let longer = insert(text, end, entry);
            Some(format!("{}{}{}", &longer[..number], length + 1, &longer[number + digits..]))
        })
    }

    /// Declares a public module in its place by the alphabet.
    pub(super) fn module(&mut self, root: &Path, file: &str, module: &str) -> Result<()> {
        let declared = |line: &str| {
            let name = line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')?;
            Some(name.to_owned())
        };
        self.change(root, file, "mod …;", |text| {
            let line = |at: usize| text[at..].lines().next().unwrap_or_default();
            let modules: Vec<(usize, String)> =
                starts(text).filter_map(|at| Some((at, declared(line(at))?))).collect();
            if modules.iter().any(|(_, name)| name == module) {
                return Some(text.to_owned());
            }
            let last = modules.last()?;
            let next = modules.iter().find(|(_, name)| name.as_str() > module);
            let at = next.map_or_else(|| last.0 + line(last.0).len() + 1, |(at, _)| *at);
            Some(insert(text, at, &format!("pub mod {module};\n")))
        })
    }

    /// Puts a word at the end of the list on the first line that begins with `place`.
    pub(super) fn word(&mut self, root: &Path, file: &str, place: &str, word: &str) -> Result<()> {
        self.change(root, file, place, |text| {
            let begin = line_that_begins(text, place)?;
            let end = begin + text[begin..].find('\n')?;
            let close = begin + text[begin..end].rfind(']')?;
            if text[begin..close].contains(word) {
                return Some(text.to_owned());
            }
            let comma = if text[begin + place.len()..close].trim().is_empty() { "" } else { ", " };
            Some(insert(text, close, &format!("{comma}{word}")))
        })
    }

    /// Puts lines at the end of a file, unless it has the first of them that says something.
    pub(super) fn at_end(&mut self, root: &Path, file: &str, lines: &str) -> Result<()> {
        self.change(root, file, "its end", |text| {
            let first = lines.lines().find(|line| !line.is_empty())?;
            Some(if text.lines().any(|line| line == first) {
                text.to_owned()
            } else {
                text.to_owned() + lines
            })
        })
    }

    /// Writes everything; gives the files with what was done.
    pub(super) fn write(self, root: &Path) -> Result<Vec<(String, Outcome)>> {
        let mut written = Vec::new();
        for (file, (text, outcome)) in self.files {
            let path = root.join(&file);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("cannot make {}", parent.display()))?;
            }
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            written.push((file, outcome));
        }
        Ok(written)
    }
}

fn insert(text: &str, at: usize, more: &str) -> String {
    format!("{}{more}{}", &text[..at], &text[at..])
}

/// Where lines begin.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).filter(|at| *at < text.len())
}

fn line_that_begins(text: &str, place: &str) -> Option<usize> {
    starts(text).find(|at| text[*at..].starts_with(place))
}

/// Whether the lines are there, however they are laid out.
fn holds(text: &str, lines: &str) -> bool {
    without_layout(text).contains(&without_layout(lines))
}

/// What a formatter leaves as it is.
fn without_layout(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_whitespace() && *letter != ',').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, edit: impl Fn(&mut Edits, &Path) -> Result<()>) -> Result<String> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("f"), text)?;
        for _ in 0..2 {
            let mut edits = Edits::default();
            edit(&mut edits, directory.path())?;
            edits.write(directory.path())?;
        }
        Ok(std::fs::read_to_string(directory.path().join("f"))?)
    }

    #[test]
    fn each_edit_is_made_once_however_often_it_is_run() {
        let list = "pub const L: [u8; 2] = [\n    1,\n    2,\n];\n";
        assert_eq!(
            changed(list, |edits, root| edits.list(root, "f", "pub const L: [u8; ", "    30,\n")).unwrap(),
            "pub const L: [u8; 3] = [\n    1,\n    2,\n    30,\n];\n"
        );
        assert_eq!(
            changed("mod a;\npub mod c;\n\nuse x;\n", |edits, root| edits.module(root, "f", "b")).unwrap(),
            "mod a;\npub mod b;\npub mod c;\n\nuse x;\n"
        );
        assert_eq!(
            changed("mod a;\n\nuse x;\n", |edits, root| edits.module(root, "f", "b")).unwrap(),
            "mod a;\npub mod b;\n\nuse x;\n"
        );
        assert_eq!(
            changed("enum E {\n    A,\n}\n", |edits, root| edits
                .last_of_block(root, "f", "enum E {", "    B,\n"))
            .unwrap(),
            "enum E {\n    A,\n    B,\n}\n"
        );
        assert_eq!(
            changed("s = [\"a\"]\n", |edits, root| edits.word(root, "f", "s = [", "\"b\"")).unwrap(),
            "s = [\"a\", \"b\"]\n"
        );
        assert_eq!(
            changed("| **a** |\nx\n", |edits, root| edits.after_last(root, "f", "| **", "| **b** |\n"))
                .unwrap(),
            "| **a** |\n| **b** |\nx\n"
        );
        assert_eq!(
            changed("x\n", |edits, root| edits.at_end(root, "f", "\n[b]\nc = 1\n")).unwrap(),
            "x\n\n[b]\nc = 1\n"
        );
    }

    #[test]
    fn a_place_that_is_not_there_refuses_and_what_is_otherwise_is_not_written_over() {
        let error =
            changed("x\n", |edits, root| edits.before(root, "f", "here", "y\n")).unwrap_err().to_string();
        assert!(error.contains("f has no place `here`") && error.contains("nothing was written"), "{error}");
        assert!(changed("x\n", |edits, root| edits.list(root, "f", "x", "y")).is_err());
        let error =
            changed("x\n", |edits, root| edits.make(root, "f", "other".to_owned())).unwrap_err().to_string();
        assert!(error.contains("there already"), "{error}");
        assert!(changed("x\n", |edits, root| edits.make(root, "f", "x".to_owned())).is_ok());
    }
}
