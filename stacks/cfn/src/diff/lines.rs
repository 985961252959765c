//! Text files, line by line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::values::Change;

/// A line that came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Whether it came or went.
    pub change: Change,
    /// The line's number: among the new lines where it came, among the old ones where it went.
    pub number: usize,
    /// What it says.
    pub text: String,
}

/// What sets two versions of a text file apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// The file, relative to the assembly.
    pub path: String,
    /// Whether it came, went or changed.
    pub change: Change,
    /// The lines that came and went, where the file is on both sides.
    pub lines: Vec<Line>,
}

/// Files are written by templates and have some hundred lines; a comparison takes their product.
const LINES_MAX: usize = 4_000;

pub(super) fn compare(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<FileDifference> {
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter_map(|path| {
            let (change, lines) = match (before.get(path), after.get(path)) {
                (Some(before), Some(after)) if before == after => return None,
                (Some(before), Some(after)) => (Change::Changed, lines(before, after)),
                (Some(_), None) => (Change::Removed, Vec::new()),
                _ => (Change::Added, Vec::new()),
            };
            Some(FileDifference { path: path.clone(), change, lines })
        })
        .collect()
}

/// Lines that are not in the longest common subsequence. Of files that are too long, only that they differ.
fn lines(before: &str, after: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old.len().max(new.len()) > LINES_MAX {
        return Vec::new();
    }
    // common[i][j]: how many lines old[i..] and new[j..] have in common.
    let mut common = vec![vec![0u16; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut found = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            found.push(Line { change: Change::Removed, number: i + 1, text: old[i].to_owned() });
            i += 1;
        } else {
            found.push(Line { change: Change::Added, number: j + 1, text: new[j].to_owned() });
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_came_and_went_are_told() {
        let told: Vec<(Change, usize)> =
            lines("a\nb\nc", "a\nx\nc\nd").iter().map(|line| (line.change, line.number)).collect();
        assert_eq!(told, [(Change::Removed, 2), (Change::Added, 2), (Change::Added, 4)]);
    }

    proptest! {
        /// What is told turns the old lines into the new ones.
        #[test]
        fn the_lines_lead_from_one_to_the_other(old in proptest::collection::vec("[ab]", 0..8), new in proptest::collection::vec("[ab]", 0..8)) {
            let told = lines(&old.join("\n"), &new.join("\n"));
            let numbers = |change: Change| -> Vec<usize> {
                told.iter().filter(|line| line.change == change).map(|line| line.number - 1).collect()
            };
            let left = |all: &[String], gone: Vec<usize>| -> Vec<String> {
                all.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, line)| line.clone()).collect()
            };
            prop_assert_eq!(left(&old, numbers(Change::Removed)), left(&new, numbers(Change::Added)));
        }
    }
}
