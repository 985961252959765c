//! CloudFormation's intrinsic functions, and references by marker.

use serde_json::json;

use crate::value::{IntoValue, Json, Property, Value};

/// The key of the object that stands for a reference until synthesis knows in which stack it is used.
const MARKER: &str = "Fn::FloodgateReference";

/// A reference to a resource or parameter of some stack, before it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The id of the stack that declares the target.
    pub stack: String,
    /// The target's logical id.
    pub logical_id: String,
    /// The attribute, or `None` for `Ref`.
    pub attribute: Option<String>,
    /// Whether the attribute is a list of strings (it crosses stacks as a comma-delimited list).
    pub list: bool,
}

impl Reference {
    /// The marker that stands in an expression for this reference.
    pub fn to_marker(&self) -> Json {
        json!({ MARKER: { "Stack": self.stack, "LogicalId": self.logical_id, "Attribute": self.attribute, "List": self.list } })
    }

    /// Reads a marker back; `None` when the JSON is something else.
    pub fn from_marker(json: &Json) -> Option<Self> {
        let object = json.as_object().filter(|object| object.len() == 1)?;
        let marker = object.get(MARKER)?;
        Some(Self {
            stack: marker.get("Stack")?.as_str()?.to_owned(),
            logical_id: marker.get("LogicalId")?.as_str()?.to_owned(),
            attribute: marker.get("Attribute").and_then(Json::as_str).map(str::to_owned),
            list: marker.get("List").and_then(Json::as_bool).unwrap_or(false),
        })
    }
}

/// Every reference inside an expression, in order of appearance.
pub fn references(json: &Json) -> Vec<Reference> {
    fn walk(json: &Json, found: &mut Vec<Reference>) {
        if let Some(reference) = Reference::from_marker(json) {
            found.push(reference);
            return;
        }
        match json {
            Json::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Json::Object(object) => object.values().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(json, &mut found);
    found
}

/// A condition that a stack declares; gates resources and picks values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub(crate) id: String,
}

impl Condition {
    /// The condition as an operand of another.
    pub fn expression(&self) -> ConditionExpression {
        ConditionExpression(json!({ "Condition": self.id }))
    }
}

/// What a condition tests.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionExpression(pub(crate) Json);

impl ConditionExpression {
    /// `Fn::Equals`.
    pub fn equals(a: impl IntoValue<String>, b: impl IntoValue<String>) -> Self {
        Self(json!({ "Fn::Equals": [a.into_value().to_json(), b.into_value().to_json()] }))
    }

    /// `Fn::And` of 2 to 10 conditions.
    pub fn and(conditions: impl IntoIterator<Item = ConditionExpression>) -> Self {
        Self(json!({ "Fn::And": conditions.into_iter().map(|c| c.0).collect::<Vec<_>>() }))
    }

    /// `Fn::Or` of 2 to 10 conditions.
    pub fn or(conditions: impl IntoIterator<Item = ConditionExpression>) -> Self {
        Self(json!({ "Fn::Or": conditions.into_iter().map(|c| c.0).collect::<Vec<_>>() }))
    }
}

/// `Fn::Not`.
impl std::ops::Not for ConditionExpression {
    type Output = Self;

    fn not(self) -> Self {
        Self(json!({ "Fn::Not": [self.0] }))
    }
}

fn pseudo<T>(name: &str) -> Value<T> {
    Value::Expression(json!({ "Ref": name }))
}

/// Intrinsics of any result type.
impl<T> Value<T> {
    /// Any intrinsic, as JSON: the way to one that this crate does not know yet.
    pub fn expression(json: Json) -> Self {
        Value::Expression(json)
    }

    /// `AWS::NoValue`: the property as if it had not been set.
    pub fn no_value() -> Self {
        pseudo("AWS::NoValue")
    }

    /// `Fn::If`: one value when the condition holds, else the other.
    pub fn if_(condition: &Condition, then: impl IntoValue<T>, otherwise: impl IntoValue<T>) -> Self
    where
        T: Property,
    {
        Value::Expression(
            json!({ "Fn::If": [condition.id, then.into_value().to_json(), otherwise.into_value().to_json()] }),
        )
    }

    /// The value when the condition holds, else as if the property had not been set.
    pub fn when(condition: &Condition, then: impl IntoValue<T>) -> Self
    where
        T: Property,
    {
        Self::if_(condition, then, Self::no_value())
    }

    /// `Fn::Select`: the element of a list at `index`, from 0.
    pub fn select(index: u32, list: impl IntoValue<Vec<Value<T>>>) -> Self
    where
        T: Property,
    {
        Value::Expression(json!({ "Fn::Select": [index, list.into_value().to_json()] }))
    }

    /// `Fn::ImportValue`: the value that another stack exports under that name. Stacks of one app need no
    /// exports; this is for what others export.
    pub fn import_value(name: impl IntoValue<String>) -> Self {
        Value::Expression(json!({ "Fn::ImportValue": name.into_value().to_json() }))
    }

    /// `Fn::FindInMap` in a mapping of the stack.
    pub fn find_in_map(
        mapping: &str,
        first_key: impl IntoValue<String>,
        second_key: impl IntoValue<String>,
    ) -> Self {
        Value::Expression(json!({
            "Fn::FindInMap": [mapping, first_key.into_value().to_json(), second_key.into_value().to_json()]
        }))
    }

    /// `Fn::Transform`: the result of a macro.
    pub fn transform(name: &str, parameters: Json) -> Self {
        Value::Expression(json!({ "Fn::Transform": { "Name": name, "Parameters": parameters } }))
    }
}

/// Intrinsics that give text.
impl Value<String> {
    /// `Fn::Sub`: text with `${name}` replaced by the named values. Pseudo parameters such as
    /// `${AWS::Region}` may stand in the text without being named.
    pub fn sub<const N: usize>(text: &str, values: [(&str, Json); N]) -> Self {
        if values.is_empty() {
            return Value::Expression(json!({ "Fn::Sub": text }));
        }
        let values: serde_json::Map<_, _> =
            values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Value::Expression(json!({ "Fn::Sub": [text, values] }))
    }

    /// `Fn::Join`: the elements with a delimiter between them.
    pub fn join<T: Property>(delimiter: &str, list: impl IntoValue<Vec<Value<T>>>) -> Self {
        Value::Expression(json!({ "Fn::Join": [delimiter, list.into_value().to_json()] }))
    }

    /// `Fn::Base64`.
    pub fn base64(text: impl IntoValue<String>) -> Self {
        Value::Expression(json!({ "Fn::Base64": text.into_value().to_json() }))
    }

    /// JSON as text, with what only CloudFormation knows filled in by `Fn::Sub`: a dashboard's body, a
    /// definition in a string. Expressions must stand for texts without quotes in them, such as names and ARNs.
    pub fn json_text(json: Json) -> Self {
        let mut values = Vec::new();
        let text = take_expressions(json, &mut values).to_string();
        if values.is_empty() {
            return Value::Literal(text.replace("${!", "${"));
        }
        let values: serde_json::Map<_, _> =
            values.into_iter().enumerate().map(|(index, value)| (format!("Value{index}"), value)).collect();
        Value::Expression(json!({ "Fn::Sub": [text, values] }))
    }

    /// `Fn::ToJsonString` (needs the transform `AWS::LanguageExtensions`).
    pub fn to_json_string(json: Json) -> Self {
        Value::Expression(json!({ "Fn::ToJsonString": json }))
    }

    /// `AWS::AccountId`.
    pub fn account_id() -> Self {
        pseudo("AWS::AccountId")
    }

    /// `AWS::Region`.
    pub fn region() -> Self {
        pseudo("AWS::Region")
    }

    /// `AWS::Partition`.
    pub fn partition() -> Self {
        pseudo("AWS::Partition")
    }

    /// `AWS::URLSuffix`.
    pub fn url_suffix() -> Self {
        pseudo("AWS::URLSuffix")
    }

    /// `AWS::StackName`.
    pub fn stack_name() -> Self {
        pseudo("AWS::StackName")
    }

    /// `AWS::StackId`.
    pub fn stack_id() -> Self {
        pseudo("AWS::StackId")
    }
}

/// Intrinsics that give a number.
impl Value<i64> {
    /// `Fn::Length` (needs the transform `AWS::LanguageExtensions`).
    pub fn length<T: Property>(list: impl IntoValue<Vec<Value<T>>>) -> Self {
        Value::Expression(json!({ "Fn::Length": list.into_value().to_json() }))
    }
}

/// Intrinsics that give a list.
impl<T> Value<Vec<Value<T>>> {
    /// `Fn::Split`: text at each delimiter.
    pub fn split(delimiter: &str, text: impl IntoValue<String>) -> Self {
        Value::Expression(json!({ "Fn::Split": [delimiter, text.into_value().to_json()] }))
    }

    /// `Fn::GetAZs` of a region; of the stack's own for `""`.
    pub fn get_azs(region: impl IntoValue<String>) -> Self {
        Value::Expression(json!({ "Fn::GetAZs": region.into_value().to_json() }))
    }

    /// `Fn::Cidr`: `count` address blocks of `32 - cidr_bits` prefix length (IPv4) out of a block.
    pub fn cidr(block: impl IntoValue<String>, count: u32, cidr_bits: u32) -> Self {
        Value::Expression(json!({ "Fn::Cidr": [block.into_value().to_json(), count, cidr_bits.to_string()] }))
    }

    /// `AWS::NotificationARNs`.
    pub fn notification_arns() -> Self {
        pseudo("AWS::NotificationARNs")
    }
}

/// Whether a value is known to CloudFormation alone.
pub fn is_intrinsic(json: &Json) -> bool {
    json.as_object().is_some_and(|object| {
        object.len() == 1
            && object.keys().all(|key| key == "Ref" || key == "Condition" || key.starts_with("Fn::"))
    })
}

/// Replaces expressions by the names under which `Fn::Sub` finds them.
fn take_expressions(json: Json, values: &mut Vec<Json>) -> Json {
    match json {
        Json::Object(object) if is_intrinsic(&Json::Object(object.clone())) => {
            let value = Json::Object(object);
            let index = values.iter().position(|known| *known == value).unwrap_or_else(|| {
                values.push(value);
                values.len() - 1
            });
            Json::String(format!("${{Value{index}}}"))
        }
        Json::Object(object) => {
            object.into_iter().map(|(key, value)| (key, take_expressions(value, values))).collect()
        }
        Json::Array(items) => items.into_iter().map(|item| take_expressions(item, values)).collect(),
        // What looks like a variable of `Fn::Sub` is meant as it stands.
        Json::String(text) => Json::String(text.replace("${", "${!")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_read_back() {
        let reference = Reference {
            stack: "network".into(),
            logical_id: "Vpc".into(),
            attribute: Some("CidrBlock".into()),
            list: false,
        };
        assert_eq!(Reference::from_marker(&reference.to_marker()), Some(reference.clone()));
        let nested = json!({ "Fn::Join": ["", ["a", reference.to_marker()]] });
        assert_eq!(references(&nested), vec![reference]);
    }

    #[test]
    fn json_text_keeps_what_only_cloudformation_knows() {
        let body = json!({ "a": [{ "Ref": "Queue" }, "${x}", { "Ref": "Queue" }], "b": 1 });
        assert_eq!(
            Value::json_text(body).to_json(),
            json!({ "Fn::Sub": [r#"{"a":["${Value0}","${!x}","${Value0}"],"b":1}"#, { "Value0": { "Ref": "Queue" } }] })
        );
        assert_eq!(Value::json_text(json!(["${x}"])).to_json(), json!(r#"["${x}"]"#));
    }

    #[test]
    fn intrinsics_render_as_cloudformation_spells_them() {
        let region: Value<String> = Value::region();
        assert_eq!(region.to_json(), json!({"Ref": "AWS::Region"}));
        let zone: Value<String> = Value::select(1, Value::get_azs(""));
        assert_eq!(zone.to_json(), json!({"Fn::Select": [1, {"Fn::GetAZs": ""}]}));
        assert_eq!(Value::sub("a-${AWS::Region}", []).to_json(), json!({"Fn::Sub": "a-${AWS::Region}"}));
        assert_eq!(
            Value::sub("${x}/b", [("x", Json::from("a"))]).to_json(),
            json!({"Fn::Sub": ["${x}/b", {"x": "a"}]})
        );
        let production = Condition { id: "Production".into() };
        assert_eq!(Value::<i64>::if_(&production, 3, 1).to_json(), json!({"Fn::If": ["Production", 3, 1]}));
        let blocks: Value<Vec<Value<String>>> = Value::cidr("10.0.0.0/16", 6, 12);
        assert_eq!(blocks.to_json(), json!({"Fn::Cidr": ["10.0.0.0/16", 6, "12"]}));
        let not = !ConditionExpression::equals(Value::region(), "eu-west-1");
        assert_eq!(not.0, json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "AWS::Region"}, "eu-west-1"]}]}));
    }
}
