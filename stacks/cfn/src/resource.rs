//! Resources and the handles that refer to them.

use std::{any::Any, fmt::Debug, ops::Deref, sync::Arc};

use crate::{
    intrinsic::Reference,
    value::{Json, Value},
};

/// How a resource type spells its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    /// A list of `{Key, Value}`.
    List,
    /// An object from key to value.
    Map,
    /// A list of `{Key, Value, PropagateAtLaunch}`.
    AutoScalingList,
}

/// Where a resource type keeps its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagShape {
    /// The property's name, mostly `Tags`.
    pub property: &'static str,
    /// Its shape.
    pub kind: TagKind,
}

/// A CloudFormation resource type with its properties: what the generated vocabulary implements.
pub trait Resource: Any + Debug {
    /// The typed attributes of the resource once created.
    type Attributes: From<RawHandle> + Clone + Debug;
    /// The type's name, such as `AWS::EC2::VPC`.
    const TYPE: &'static str;
    /// Where the type keeps its tags, if it has any.
    const TAGS: Option<TagShape>;
    /// Whether deleting the resource deletes data.
    const STATEFUL: bool;

    /// The properties as they stand in the template.
    fn properties(&self) -> serde_json::Map<String, Json>;
}

/// A resource of any type, as a stack keeps it.
pub trait AnyResource: Debug {
    /// See [`Resource::TYPE`].
    fn resource_type(&self) -> &'static str;
    /// See [`Resource::TAGS`].
    fn tag_shape(&self) -> Option<TagShape>;
    /// See [`Resource::STATEFUL`].
    fn is_stateful(&self) -> bool;
    /// See [`Resource::properties`].
    fn properties(&self) -> serde_json::Map<String, Json>;
    /// For reading the typed resource back.
    fn as_any(&self) -> &dyn Any;
    /// For changing the typed resource.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<R: Resource> AnyResource for R {
    fn resource_type(&self) -> &'static str {
        R::TYPE
    }

    fn tag_shape(&self) -> Option<TagShape> {
        R::TAGS
    }

    fn is_stateful(&self) -> bool {
        R::STATEFUL
    }

    fn properties(&self) -> serde_json::Map<String, Json> {
        Resource::properties(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// What names a resource: its stack and its logical id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawHandle {
    stack: Arc<str>,
    logical_id: Arc<str>,
}

impl RawHandle {
    pub(crate) fn new(stack: Arc<str>, logical_id: &str) -> Self {
        Self { stack, logical_id: logical_id.into() }
    }

    /// The id of the stack that declares the resource.
    pub fn stack(&self) -> &str {
        &self.stack
    }

    /// The resource's logical id.
    pub fn logical_id(&self) -> &str {
        &self.logical_id
    }

    fn marker<T>(&self, attribute: Option<&str>, list: bool) -> Value<T> {
        Value::Expression(
            Reference {
                stack: self.stack.to_string(),
                logical_id: self.logical_id.to_string(),
                attribute: attribute.map(str::to_owned),
                list,
            }
            .to_marker(),
        )
    }

    /// `Ref`: what CloudFormation returns for it depends on the type.
    pub fn reference<T>(&self) -> Value<T> {
        self.marker(None, false)
    }

    /// `Fn::GetAtt` of an attribute.
    pub fn attribute<T>(&self, name: &str) -> Value<T> {
        self.marker(Some(name), false)
    }

    /// `Fn::GetAtt` of an attribute that is a list of strings.
    pub fn attribute_list<T>(&self, name: &str) -> Value<Vec<Value<T>>> {
        self.marker(Some(name), true)
    }
}

/// A resource that a stack has: gives its attributes, typed, and nothing that the type does not have.
#[derive(Clone, Debug)]
pub struct Handle<R: Resource> {
    raw: RawHandle,
    attributes: R::Attributes,
}

impl<R: Resource> Handle<R> {
    pub(crate) fn new(raw: RawHandle) -> Self {
        Self { attributes: R::Attributes::from(raw.clone()), raw }
    }

    /// The untyped name of the resource.
    pub fn raw(&self) -> &RawHandle {
        &self.raw
    }
}

impl<R: Resource> Deref for Handle<R> {
    type Target = R::Attributes;

    fn deref(&self) -> &R::Attributes {
        &self.attributes
    }
}

/// What happens to a resource's data when the resource leaves its stack or is replaced
/// (`DeletionPolicy` and `UpdateReplacePolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The data goes.
    Delete,
    /// The resource stays, out of CloudFormation's hands.
    Retain,
    /// As `Retain`, except when its very creation failed.
    RetainExceptOnCreate,
    /// A last snapshot is taken, where the type can.
    Snapshot,
}

impl Removal {
    /// As CloudFormation spells it as a `DeletionPolicy`.
    pub fn deletion_policy(self) -> &'static str {
        match self {
            Removal::Delete => "Delete",
            Removal::Retain => "Retain",
            Removal::RetainExceptOnCreate => "RetainExceptOnCreate",
            Removal::Snapshot => "Snapshot",
        }
    }

    /// As CloudFormation spells it as an `UpdateReplacePolicy`, which knows no `RetainExceptOnCreate`.
    pub fn update_replace_policy(self) -> &'static str {
        match self {
            Removal::RetainExceptOnCreate => "Retain",
            other => other.deletion_policy(),
        }
    }
}
