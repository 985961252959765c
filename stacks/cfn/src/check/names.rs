//! Names where ARNs belong and ARNs where names belong; the nearest of known names.

use super::{
    Rule,
    rules::{ARN_FOR_NAME, NAME_FOR_ARN},
    template::texts,
};
use crate::value::Json;

/// Properties called names that take an ARN as well, as AWS documents them.
const NAMES_OR_ARNS: [&str; 4] = ["FunctionName", "EventBusName", "LayerName", "ServiceName"];

/// Whether a property holds an ARN although it is a name's, or the reverse.
pub(super) fn misplaced(property: &str, value: &Json, schema: &Json) -> Option<(Rule, String)> {
    let takes_both = schema.get("pattern").and_then(Json::as_str).is_some_and(|text| text.contains("arn"));
    let arn = |text: &&&str| text.starts_with("arn:");
    let literals = texts(Some(value));
    let is_name = property.ends_with("Name") || property.ends_with("Names");
    let is_arn = ["Arn", "Arns", "ARN", "ARNs"].iter().any(|ending| property.ends_with(ending));
    if is_name && !takes_both && !NAMES_OR_ARNS.contains(&property) {
        let found = literals.iter().find(arn)?;
        return Some((ARN_FOR_NAME, format!("wants a name and is the ARN {found}")));
    }
    if is_arn {
        // A dynamic reference is resolved by CloudFormation; `*` stands for every ARN.
        let bare = |text: &&&str| !arn(text) && !text.starts_with("{{") && !text.is_empty() && **text != "*";
        let found = literals.iter().find(bare)?;
        return Some((NAME_FOR_ARN, format!("wants an ARN and is `{found}`")));
    }
    None
}

/// The known name that is most like another, if one is like enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 5).clamp(1, 3);
    known
        .map(|each| (strsim::osa_distance(&each.to_lowercase(), &name.to_lowercase()), each))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, each)| each)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_like_is_found_and_what_is_not_is_not() {
        let known = ["FunctionName", "Resource", "ExecutedVersion"];
        assert_eq!(nearest("Functionname", known.into_iter()), Some("FunctionName"));
        assert_eq!(nearest("FuncionName", known.into_iter()), Some("FunctionName"));
        assert_eq!(nearest("QueueName", known.into_iter()), None);
    }

    proptest! {
        /// A slip of one letter is always recognised, and a known name is its own nearest.
        #[test]
        fn a_slip_of_one_letter_is_recognised(at in 0usize..12, letter in proptest::char::range('a', 'z')) {
            let mut slipped: Vec<char> = "FunctionName".chars().collect();
            slipped[at] = letter;
            let slipped: String = slipped.into_iter().collect();
            prop_assert_eq!(nearest(&slipped, ["FunctionName", "StreamName"].into_iter()), Some("FunctionName"));
        }
    }

    #[test]
    fn expressions_and_patterns_that_allow_both_are_left_alone() {
        let code = |property: &str, value: Json, schema: Json| {
            misplaced(property, &value, &schema).map(|(rule, _)| rule.code)
        };
        assert_eq!(code("TopicName", json!("arn:aws:sns:r:a:t"), json!({})), Some(ARN_FOR_NAME.code));
        assert_eq!(code("RoleArn", json!("role"), json!({})), Some(NAME_FOR_ARN.code));
        assert_eq!(code("RoleArn", json!({"Ref": "Role"}), json!({})), None);
        assert_eq!(
            code("TopicName", json!("arn:aws:sns:r:a:t"), json!({"pattern": "^(arn:.*|[a-z]+)$"})),
            None
        );
    }
}
