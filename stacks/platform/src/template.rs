//! Text from `templates/`.

use handlebars::Handlebars;
use serde_json::Value as Json;

use crate::{RenderError, kubernetes::reading};

/// Fills a template. Nothing is escaped, and a name that the data does not have is an error.
///
/// # Errors
///
/// When the template is wrong, or names what is not there.
pub(crate) fn fill(template: &str, data: &Json) -> Result<String, RenderError> {
    let mut engine = Handlebars::new();
    engine.register_escape_fn(handlebars::no_escape);
    engine.set_strict_mode(true);
    engine.render_template(template, data).map_err(|error| RenderError::Template(error.to_string()))
}

/// As [`fill`], for a manifest: it is read back by the types of its resources.
///
/// # Errors
///
/// As [`fill`], and when a field is misspelt or a value has another type.
pub(crate) fn fill_manifest(template: &str, data: &Json) -> Result<String, RenderError> {
    let manifest = fill(template, data)?;
    reading::check(&manifest).map_err(RenderError::Manifest)?;
    Ok(manifest)
}
