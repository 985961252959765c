//! Typed values: a literal or an intrinsic.

use std::collections::BTreeMap;

/// Free JSON, for properties whose shape CloudFormation leaves open (policies, settings).
pub type Json = serde_json::Value;

/// A value of a property: known now (a literal) or known to CloudFormation at deploy time (an intrinsic).
///
/// An expression is the intrinsic's JSON; references in it are internal markers that
/// [`App::synth`](crate::App::synth) turns into `Ref`, `Fn::GetAtt` or, across stacks, into a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<T> {
    /// Known when the stack is rendered.
    Literal(T),
    /// An intrinsic, as JSON.
    Expression(Json),
}

impl<T> Value<T> {
    /// The literal, if the value is one.
    pub fn literal(&self) -> Option<&T> {
        match self {
            Value::Literal(literal) => Some(literal),
            Value::Expression(_) => None,
        }
    }

    /// The literal, to be changed in place, if the value is one.
    pub fn literal_mut(&mut self) -> Option<&mut T> {
        match self {
            Value::Literal(literal) => Some(literal),
            Value::Expression(_) => None,
        }
    }

    /// The same value under another type: the explicit way round the type check, for a reference
    /// that the schemas do not describe.
    pub fn assume<U>(self) -> Value<U>
    where
        T: Into<U>,
    {
        match self {
            Value::Literal(literal) => Value::Literal(literal.into()),
            Value::Expression(json) => Value::Expression(json),
        }
    }
}

/// A type that renders as (part of) a CloudFormation property.
pub trait Property {
    /// The JSON that stands in the template.
    fn to_json(&self) -> Json;
}

/// A type whose values are literals of a property of that same type: numbers, flags, free JSON, generated
/// enums, property structs and ids.
pub trait Literal: Property {}

/// A type that is text in the template: `String` and every id kind.
pub trait Text: Property + From<String> + AsRef<str> {}

/// An id kind declared by [`id!`](crate::id): may stand where plain text is wanted, but not where another
/// kind is.
pub trait IdKind: Text + Clone {}

/// What a property setter takes: a literal, a value, or something that becomes one.
#[diagnostic::on_unimplemented(
    message = "a `{Self}` cannot stand where a `{T}` is wanted",
    label = "not a `{T}`",
    note = "pass a literal, an attribute of a handle that is a `{T}`, or convert on purpose with `Value::assume`"
)]
pub trait IntoValue<T> {
    /// The value of the property.
    fn into_value(self) -> Value<T>;
}

impl<T> IntoValue<T> for Value<T> {
    #[inline]
    fn into_value(self) -> Value<T> {
        self
    }
}

impl<T: Clone> IntoValue<T> for &Value<T> {
    #[inline]
    fn into_value(self) -> Value<T> {
        self.clone()
    }
}

impl<T: Literal> IntoValue<T> for T {
    #[inline]
    fn into_value(self) -> Value<T> {
        Value::Literal(self)
    }
}

impl<T: Text> IntoValue<T> for &str {
    #[inline]
    fn into_value(self) -> Value<T> {
        Value::Literal(T::from(self.to_owned()))
    }
}

impl<T: Text> IntoValue<T> for String {
    #[inline]
    fn into_value(self) -> Value<T> {
        Value::Literal(T::from(self))
    }
}

impl<T: Text> IntoValue<T> for &String {
    #[inline]
    fn into_value(self) -> Value<T> {
        Value::Literal(T::from(self.clone()))
    }
}

impl<K: IdKind> IntoValue<String> for Value<K> {
    #[inline]
    fn into_value(self) -> Value<String> {
        match self {
            Value::Literal(id) => Value::Literal(id.as_ref().to_owned()),
            Value::Expression(json) => Value::Expression(json),
        }
    }
}

impl<K: IdKind> IntoValue<String> for &Value<K> {
    #[inline]
    fn into_value(self) -> Value<String> {
        self.clone().into_value()
    }
}

impl<X: IntoValue<T>, T> IntoValue<Vec<Value<T>>> for Vec<X> {
    fn into_value(self) -> Value<Vec<Value<T>>> {
        Value::Literal(self.into_iter().map(IntoValue::into_value).collect())
    }
}

impl<X: IntoValue<T>, T, const N: usize> IntoValue<Vec<Value<T>>> for [X; N] {
    fn into_value(self) -> Value<Vec<Value<T>>> {
        Value::Literal(self.into_iter().map(IntoValue::into_value).collect())
    }
}

impl<X: IntoValue<T>, T> IntoValue<BTreeMap<String, Value<T>>> for BTreeMap<String, X> {
    fn into_value(self) -> Value<BTreeMap<String, Value<T>>> {
        Value::Literal(self.into_iter().map(|(key, value)| (key, value.into_value())).collect())
    }
}

impl<K: Into<String>, X: IntoValue<T>, T, const N: usize> IntoValue<BTreeMap<String, Value<T>>>
    for [(K, X); N]
{
    fn into_value(self) -> Value<BTreeMap<String, Value<T>>> {
        Value::Literal(self.into_iter().map(|(key, value)| (key.into(), value.into_value())).collect())
    }
}

macro_rules! literals {
    ($($type:ty),*) => {$(
        impl Property for $type {
            #[inline]
            fn to_json(&self) -> Json {
                Json::from(*self)
            }
        }
        impl Literal for $type {}
    )*};
}
literals!(bool, i64, f64);

macro_rules! numbers {
    ($($from:ty => $to:ty),*) => {$(
        impl IntoValue<$to> for $from {
            #[inline]
            fn into_value(self) -> Value<$to> {
                Value::Literal(self.into())
            }
        }
    )*};
}
numbers!(u8 => i64, u16 => i64, u32 => i64, i32 => i64, u8 => f64, u16 => f64, u32 => f64, i32 => f64, f32 => f64);

impl Property for Json {
    fn to_json(&self) -> Json {
        self.clone()
    }
}
impl Literal for Json {}

impl Property for String {
    fn to_json(&self) -> Json {
        Json::String(self.clone())
    }
}
impl Text for String {}

impl<T: Property> Property for Vec<T> {
    fn to_json(&self) -> Json {
        Json::Array(self.iter().map(Property::to_json).collect())
    }
}

impl<T: Property> Property for BTreeMap<String, T> {
    fn to_json(&self) -> Json {
        Json::Object(self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect())
    }
}

impl<T: Property> Property for Value<T> {
    fn to_json(&self) -> Json {
        match self {
            Value::Literal(literal) => literal.to_json(),
            Value::Expression(json) => json.clone(),
        }
    }
}

/// Declares an id kind: text in the template, a type of its own in Rust, so that a `SubnetId` is not a
/// `SecurityGroupId`.
///
/// ```
/// cfn::id!(
///     /// The id of a volume, `vol-…`.
///     VolumeId
/// );
/// use cfn::{IntoValue, Value};
/// let id: Value<VolumeId> = "vol-1".into_value();
/// let text: Value<String> = id.into_value();
/// assert_eq!(text.literal().unwrap(), "vol-1");
/// ```
#[macro_export]
macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(String);

        impl ::core::convert::From<String> for $name {
            #[inline]
            fn from(text: String) -> Self {
                Self(text)
            }
        }
        impl ::core::convert::From<$name> for String {
            #[inline]
            fn from(id: $name) -> Self {
                id.0
            }
        }
        impl ::core::convert::AsRef<str> for $name {
            #[inline]
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl $crate::Property for $name {
            #[inline]
            fn to_json(&self) -> $crate::Json {
                $crate::Json::String(self.0.clone())
            }
        }
        impl $crate::Literal for $name {}
        impl $crate::Text for $name {}
        impl $crate::IdKind for $name {}
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    id!(
        /// A test id.
        VolumeId
    );

    fn takes<T: Property>(value: impl IntoValue<T>) -> Json {
        value.into_value().to_json()
    }

    #[test]
    fn literals_of_every_kind_render_as_themselves() {
        assert_eq!(takes::<String>("text"), Json::from("text"));
        assert_eq!(takes::<i64>(5), Json::from(5));
        assert_eq!(takes::<f64>(5), Json::from(5.0));
        assert_eq!(takes::<bool>(true), Json::from(true));
        assert_eq!(takes::<Vec<Value<VolumeId>>>(["vol-1", "vol-2"]), serde_json::json!(["vol-1", "vol-2"]));
        assert_eq!(takes::<BTreeMap<String, Value<i64>>>([("a", 1)]), serde_json::json!({"a": 1}));
    }

    #[test]
    fn an_id_stands_where_text_is_wanted() {
        let id: Value<VolumeId> = Value::Expression(serde_json::json!({"Ref": "Volume"}));
        assert_eq!(takes::<String>(id), serde_json::json!({"Ref": "Volume"}));
    }
}
