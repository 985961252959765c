//! A stack: resources, parameters, outputs, conditions and mappings under one name.

use std::{any::Any, collections::BTreeMap, marker::PhantomData, panic::Location, sync::Arc};

use crate::{
    assembly::Source,
    intrinsic::{Condition, ConditionExpression},
    resource::{AnyResource, Handle, RawHandle, Removal, Resource},
    scope::Scope,
    synth::SynthError,
    value::{Json, Property, Value},
};

/// What a stack has beside its constructs.
#[derive(Clone, Debug, Default)]
pub struct StackProperties {
    /// At most 1,024 bytes, shown by CloudFormation.
    pub description: String,
    /// Tags of the stack and of every taggable resource in it, beside the app's.
    pub tags: BTreeMap<String, String>,
    /// Whether CloudFormation refuses to delete the stack until this is turned off.
    pub termination_protection: bool,
}

/// The type of a template parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// Text.
    String,
    /// An integer or float.
    Number,
    /// Text with commas, used as a list.
    CommaDelimitedList,
    /// The name of a Parameter Store parameter, resolved to its text at deploy time.
    SsmString,
}

impl ParameterType {
    /// As CloudFormation spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            ParameterType::String => "String",
            ParameterType::Number => "Number",
            ParameterType::CommaDelimitedList => "CommaDelimitedList",
            ParameterType::SsmString => "AWS::SSM::Parameter::Value<String>",
        }
    }
}

/// A parameter of a stack, usable as a value of type `T`.
#[derive(Clone, Debug)]
pub struct Parameter<T> {
    raw: RawHandle,
    kind: PhantomData<T>,
}

impl<T> Parameter<T> {
    /// The parameter's value at deploy time.
    pub fn value(&self) -> Value<T> {
        self.raw.reference()
    }
}

/// A fact that CloudFormation cannot tell and that the deploy engine looks up between stacks.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The bootstrap brokers of an MSK cluster (`AWS::MSK::Cluster` has no such attribute).
    MskBootstrapBrokers {
        /// The cluster's ARN.
        cluster_arn: Value<String>,
        /// Which listener: `iam`, `tls` or `plaintext`.
        authentication: String,
    },
    /// The host name of one broker of an MSK cluster, without a port: the bootstrap brokers may be fewer than all.
    MskBrokerHost {
        /// The cluster's ARN.
        cluster_arn: Value<String>,
        /// The broker's id, from 1.
        broker: u32,
    },
}

/// A check rule that a resource is excused from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    /// The rule's code.
    pub code: String,
    /// Why it does not apply here.
    pub reason: String,
}

/// Where a resource comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Stack id.
    pub stack: String,
    /// Logical id.
    pub logical_id: String,
    /// Resource type.
    pub resource_type: String,
    /// Construct path below the stack, such as `network/Vpc/Resource`.
    pub path: String,
    /// Rust source, `file:line`.
    pub source: String,
    /// The rules that it is excused from.
    pub waivers: Vec<Waiver>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) logical_id: String,
    pub(crate) path: String,
    pub(crate) location: &'static Location<'static>,
    pub(crate) resource: Box<dyn AnyResource>,
    pub(crate) depends_on: Vec<RawHandle>,
    pub(crate) removal: Option<Removal>,
    pub(crate) condition: Option<String>,
    pub(crate) metadata: BTreeMap<String, Json>,
    pub(crate) waivers: Vec<Waiver>,
}

#[derive(Debug)]
pub(crate) struct ParameterDeclaration {
    pub(crate) kind: ParameterType,
    pub(crate) description: String,
    pub(crate) default: Option<String>,
    pub(crate) no_echo: bool,
    pub(crate) source: Option<DeclaredSource>,
}

#[derive(Debug)]
pub(crate) enum DeclaredSource {
    Known(Source),
    Lookup(Lookup),
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) value: Json,
    pub(crate) description: String,
}

/// One CloudFormation stack in the making.
#[derive(Debug)]
pub struct Stack {
    pub(crate) id: Arc<str>,
    pub(crate) name: String,
    pub(crate) properties: StackProperties,
    pub(crate) nodes: Vec<Node>,
    pub(crate) index: BTreeMap<String, usize>,
    pub(crate) parameters: BTreeMap<String, ParameterDeclaration>,
    pub(crate) outputs: BTreeMap<String, Output>,
    pub(crate) conditions: BTreeMap<String, Json>,
    pub(crate) mappings: BTreeMap<String, Json>,
    pub(crate) transforms: Vec<String>,
    /// Outputs with the names of functions to invoke, in order.
    pub(crate) invocations: Vec<String>,
    pub(crate) errors: Vec<SynthError>,
}

impl Stack {
    pub(crate) fn new(id: &str, name: String, properties: StackProperties) -> Self {
        Self {
            id: id.into(),
            name,
            properties,
            nodes: Vec::new(),
            index: BTreeMap::new(),
            parameters: BTreeMap::new(),
            outputs: BTreeMap::new(),
            conditions: BTreeMap::new(),
            mappings: BTreeMap::new(),
            transforms: Vec::new(),
            invocations: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The stack's id in the app, such as `network`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The stack's name in CloudFormation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scope in which the stack's constructs are made.
    pub fn scope(&mut self) -> Scope<'_> {
        Scope::root(self)
    }

    /// How many resources the stack has so far.
    pub fn resource_count(&self) -> usize {
        self.nodes.len()
    }

    /// Visits every resource, with its construct path, in the order of declaration.
    pub fn visit(&mut self, mut visitor: impl FnMut(&str, &mut dyn AnyResource)) {
        for node in &mut self.nodes {
            visitor(&node.path, node.resource.as_mut());
        }
    }

    /// Asks for a transform such as `AWS::LanguageExtensions`.
    pub fn transform(&mut self, name: &str) {
        if !self.transforms.iter().any(|known| known == name) {
            self.transforms.push(name.to_owned());
        }
    }

    pub(crate) fn insert<R: Resource>(
        &mut self,
        path: String,
        logical_id: String,
        resource: R,
        location: &'static Location<'static>,
    ) -> Handle<R> {
        let raw = RawHandle::new(self.id.clone(), &logical_id);
        if let Some(&taken) = self.index.get(&logical_id) {
            self.errors.push(SynthError::DuplicateLogicalId {
                stack: self.id.to_string(),
                logical_id,
                first: self.nodes[taken].path.clone(),
                second: path,
                source_location: location.to_string(),
            });
            return Handle::new(raw);
        }
        self.index.insert(logical_id.clone(), self.nodes.len());
        self.nodes.push(Node {
            logical_id,
            path,
            location,
            resource: Box::new(resource),
            depends_on: Vec::new(),
            removal: None,
            condition: None,
            metadata: BTreeMap::new(),
            waivers: Vec::new(),
        });
        Handle::new(raw)
    }

    pub(crate) fn node_mut(&mut self, handle: &RawHandle) -> Option<&mut Node> {
        if handle.stack() != &*self.id {
            self.errors.push(SynthError::ForeignHandle {
                stack: self.id.to_string(),
                owner: handle.stack().to_owned(),
                logical_id: handle.logical_id().to_owned(),
            });
            return None;
        }
        let index = *self.index.get(handle.logical_id())?;
        self.nodes.get_mut(index)
    }

    pub(crate) fn resource_mut<R: Resource>(&mut self, handle: &Handle<R>) -> Option<&mut R> {
        let any: &mut dyn Any = self.node_mut(handle.raw())?.resource.as_any_mut();
        any.downcast_mut()
    }

    pub(crate) fn resource<R: Resource>(&self, handle: &Handle<R>) -> Option<&R> {
        if handle.raw().stack() != &*self.id {
            return None;
        }
        let index = *self.index.get(handle.raw().logical_id())?;
        self.nodes.get(index)?.resource.as_any().downcast_ref()
    }

    pub(crate) fn declare_parameter<T>(
        &mut self,
        name: &str,
        declaration: ParameterDeclaration,
    ) -> Parameter<T> {
        if self.parameters.insert(name.to_owned(), declaration).is_some() {
            self.errors.push(SynthError::DuplicateName {
                stack: self.id.to_string(),
                name: name.to_owned(),
                what: "parameter",
            });
        }
        Parameter { raw: RawHandle::new(self.id.clone(), name), kind: PhantomData }
    }

    pub(crate) fn declare_output<T: Property>(&mut self, name: &str, value: &Value<T>, description: &str) {
        let output = Output { value: value.to_json(), description: description.to_owned() };
        if self.outputs.insert(name.to_owned(), output).is_some() {
            self.errors.push(SynthError::DuplicateName {
                stack: self.id.to_string(),
                name: name.to_owned(),
                what: "output",
            });
        }
    }

    pub(crate) fn declare_condition(&mut self, name: &str, expression: ConditionExpression) -> Condition {
        if self.conditions.insert(name.to_owned(), expression.0).is_some() {
            self.errors.push(SynthError::DuplicateName {
                stack: self.id.to_string(),
                name: name.to_owned(),
                what: "condition",
            });
        }
        Condition { id: name.to_owned() }
    }
}
