//! Text from `templates/`.

use handlebars::Handlebars;
use serde_json::Value as Json;

use crate::RenderError;

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
