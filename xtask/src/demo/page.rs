//! The page of a report: what was counted, the picture, and tables.

use std::path::Path;

use anyhow::{Context, Result};
use handlebars::Handlebars;
use serde::Serialize;
use serde_json::Value as Json;

const PAGE: &str = include_str!("../../../templates/reports/course.html.hbs");

/// The file with all figures.
pub(crate) const JSON_FILE: &str = "report.json";

/// Something that was counted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Counted {
    name: String,
    value: String,
    verdict: &'static str,
    words: String,
}

impl Counted {
    /// A count, and whether it is as it should be.
    pub(super) fn new(name: &str, value: impl ToString, good: bool, words: &str) -> Self {
        let verdict = if good { "good" } else { "bad" };
        Self { name: name.to_owned(), value: value.to_string(), verdict, words: words.to_owned() }
    }
}

/// A cell of a table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cell {
    text: String,
    /// `n` for a number, `h` for a column's name.
    class: &'static str,
}

impl Cell {
    /// Words.
    pub(super) fn words(text: impl ToString) -> Self {
        Self { text: escaped(&text.to_string()), class: "" }
    }

    /// A number, set to the right.
    pub(super) fn number(text: impl ToString) -> Self {
        Self { text: escaped(&text.to_string()), class: "n" }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A table with what is to be said below it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) head: Vec<Cell>,
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) note: String,
}

/// A report's page.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Page<'a> {
    pub(super) title: String,
    pub(super) summary: String,
    pub(super) counted: Vec<Counted>,
    pub(super) picture_title: &'a str,
    /// SVG.
    pub(super) picture: &'a str,
    pub(super) tables: Vec<Table>,
}

impl Page<'_> {
    fn html(&self) -> Result<String> {
        let mut engine = Handlebars::new();
        engine.set_strict_mode(true);
        engine.register_escape_fn(handlebars::no_escape);
        engine.render_template(PAGE, self).context("the report's template is wrong")
    }

    /// Writes the page, its picture and the figures into a directory.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn write(&self, directory: &Path, figures: &Json) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, text) in [
            (JSON_FILE, serde_json::to_string_pretty(figures)?),
            ("course.svg", self.picture.to_owned()),
            ("report.html", self.html()?),
        ] {
            let file = directory.join(name);
            std::fs::write(&file, text)
                .with_context(|| format!("cannot write {} (is the disk full?)", file.display()))?;
        }
        Ok(())
    }
}
