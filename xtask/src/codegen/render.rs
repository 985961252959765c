//! From the model to Rust text, through the templates.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use handlebars::Handlebars;

use super::model::Model;

/// Renders every file, by path relative to the workspace.
pub(super) fn render(model: &Model, templates: &Path, directory: &str) -> Result<BTreeMap<String, String>> {
    let mut engine = Handlebars::new();
    engine.register_escape_fn(handlebars::no_escape);
    engine.set_strict_mode(true);
    for name in ["lib", "ids", "module", "structure", "lock"] {
        let path = templates.join(format!("{name}.hbs"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        engine.register_template_string(name, text)?;
    }
    let mut files = BTreeMap::new();
    files.insert(format!("{directory}/lib.rs"), engine.render("lib", model)?);
    files.insert(format!("{directory}/ids.rs"), engine.render("ids", model)?);
    files.insert("stacks/resources/schemas/names.lock".to_owned(), engine.render("lock", model)?);
    for module in &model.modules {
        files.insert(format!("{directory}/{}.rs", module.name), engine.render("module", module)?);
    }
    Ok(files)
}
