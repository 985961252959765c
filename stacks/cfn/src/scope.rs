//! A place in a stack's construct tree: where resources are added and how they get their names.

use std::panic::Location;

use crate::{
    assembly::Source,
    intrinsic::{Condition, ConditionExpression},
    resource::{Handle, RawHandle, Removal, Resource},
    stack::{DeclaredSource, Lookup, Parameter, ParameterDeclaration, ParameterType, Stack, Waiver},
    synth::SynthError,
    value::{IntoValue, Json, Property, Value},
};

/// Path components that name the main resource of a construct: they do not appear in logical ids.
const HIDDEN: [&str; 2] = ["Resource", "Default"];

/// The metadata of a resource that names the properties which what runs sets as it goes.
pub const AT_RUN_TIME: &str = "floodgate:at-run-time";

/// CloudFormation's limit of a logical id, in characters.
const LOGICAL_ID_MAX: usize = 255;

/// A scope of the construct tree of one stack.
///
/// A logical id is made of the path alone, with no hash: `child("Vpc")` and `add("PublicSubnet1", …)` give
/// `VpcPublicSubnet1`. So code can be rearranged without replacing a database, as long as paths stay.
#[derive(Debug)]
pub struct Scope<'a> {
    stack: &'a mut Stack,
    path: Vec<String>,
}

impl<'a> Scope<'a> {
    pub(crate) fn root(stack: &'a mut Stack) -> Self {
        Self { stack, path: Vec::new() }
    }

    /// The scope below this one with that name.
    pub fn child(&mut self, name: &str) -> Scope<'_> {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        Scope { stack: self.stack, path }
    }

    /// The construct path, with the stack's id first: `network/Vpc`.
    pub fn path(&self) -> String {
        std::iter::once(&*self.stack.id)
            .chain(self.path.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("/")
    }

    /// The id of the stack.
    pub fn stack_id(&self) -> &str {
        &self.stack.id
    }

    /// The name of the stack in CloudFormation.
    pub fn stack_name(&self) -> &str {
        &self.stack.name
    }

    /// The logical id that a resource of that name would get here.
    pub fn logical_id(&self, name: &str) -> String {
        self.path
            .iter()
            .map(String::as_str)
            .chain([name])
            .filter(|component| !HIDDEN.contains(component))
            .flat_map(|component| {
                component
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .filter(|word| !word.is_empty())
                    .map(capitalised)
            })
            .collect()
    }

    /// Adds a resource. Its logical id comes from the path; the name `Resource` is for the main resource of
    /// a construct and vanishes from the id.
    #[track_caller]
    pub fn add<R: Resource>(&mut self, name: &str, resource: R) -> Handle<R> {
        let logical_id = self.logical_id(name);
        self.add_at(name, logical_id, resource, Location::caller())
    }

    /// Adds a resource under a logical id that does not follow from its path: for a resource that was moved
    /// in the tree and must not be replaced.
    #[track_caller]
    pub fn add_with_logical_id<R: Resource>(
        &mut self,
        name: &str,
        logical_id: &str,
        resource: R,
    ) -> Handle<R> {
        self.add_at(name, logical_id.to_owned(), resource, Location::caller())
    }

    fn add_at<R: Resource>(
        &mut self,
        name: &str,
        logical_id: String,
        resource: R,
        location: &'static Location<'static>,
    ) -> Handle<R> {
        let path = format!("{}/{name}", self.path());
        let valid = !logical_id.is_empty()
            && logical_id.len() <= LOGICAL_ID_MAX
            && logical_id.chars().all(|c| c.is_ascii_alphanumeric());
        if !valid {
            self.stack.errors.push(SynthError::InvalidLogicalId {
                stack: self.stack.id.to_string(),
                logical_id: logical_id.clone(),
                path: path.clone(),
                source_location: location.to_string(),
            });
        }
        self.stack.insert(path, logical_id, resource, location)
    }

    /// The resource behind a handle of this stack, to read.
    pub fn get<R: Resource>(&self, handle: &Handle<R>) -> Option<&R> {
        self.stack.resource(handle)
    }

    /// The resource behind a handle of this stack, to change. A handle of another stack gives `None` and
    /// fails the synthesis.
    pub fn get_mut<R: Resource>(&mut self, handle: &Handle<R>) -> Option<&mut R> {
        self.stack.resource_mut(handle)
    }

    /// Makes `dependent` wait for `dependency` (`DependsOn`), beyond what its references imply. Across
    /// stacks the order of the stacks sees to it.
    pub fn depend(&mut self, dependent: &RawHandle, dependency: &RawHandle) {
        if let Some(node) = self.stack.node_mut(dependent)
            && !node.depends_on.contains(dependency)
        {
            node.depends_on.push(dependency.clone());
        }
    }

    /// Sets what happens to the resource's data when it leaves the stack or is replaced.
    pub fn removal(&mut self, handle: &RawHandle, removal: Removal) {
        if let Some(node) = self.stack.node_mut(handle) {
            node.removal = Some(removal);
        }
    }

    /// Creates the resource only where the condition holds.
    pub fn condition_on(&mut self, handle: &RawHandle, condition: &Condition) {
        if let Some(node) = self.stack.node_mut(handle) {
            node.condition = Some(condition.id.clone());
        }
    }

    /// Sets an entry of the resource's `Metadata`.
    pub fn metadata(&mut self, handle: &RawHandle, key: &str, value: Json) {
        if let Some(node) = self.stack.node_mut(handle) {
            node.metadata.insert(key.to_owned(), value);
        }
    }

    /// Says that what runs sets these properties of the resource as it goes: that they are not as the template says is
    /// no drift.
    pub fn changes_at_run_time(&mut self, handle: &RawHandle, properties: &[&str]) {
        self.metadata(handle, AT_RUN_TIME, properties.into());
    }

    /// Excuses the resource from a check rule, with the reason. A code of checkov (`CKV_…`) is written into the
    /// template, where checkov looks for it.
    pub fn waive(&mut self, handle: &RawHandle, code: &str, reason: &str) {
        if let Some(node) = self.stack.node_mut(handle) {
            node.waivers.push(Waiver { code: code.to_owned(), reason: reason.to_owned() });
        }
    }

    /// Declares a parameter that whoever deploys the stack gives.
    pub fn parameter<T>(
        &mut self,
        name: &str,
        kind: ParameterType,
        default: Option<&str>,
        description: &str,
    ) -> Parameter<T> {
        self.stack.declare_parameter(
            name,
            ParameterDeclaration {
                kind,
                description: description.to_owned(),
                default: default.map(str::to_owned),
                no_echo: false,
                source: None,
            },
        )
    }

    /// Declares a parameter whose value CloudFormation never shows.
    pub fn secret_parameter<T>(&mut self, name: &str, description: &str) -> Parameter<T> {
        self.stack.declare_parameter(
            name,
            ParameterDeclaration {
                kind: ParameterType::String,
                description: description.to_owned(),
                default: None,
                no_echo: true,
                source: None,
            },
        )
    }

    /// Declares a parameter that the deploy engine looks up before it deploys the stack.
    pub fn lookup<T>(&mut self, name: &str, lookup: Lookup) -> Parameter<T> {
        self.stack.declare_parameter(
            name,
            ParameterDeclaration {
                kind: ParameterType::String,
                description: "Looked up before the stack is deployed.".to_owned(),
                default: None,
                no_echo: false,
                source: Some(DeclaredSource::Lookup(lookup)),
            },
        )
    }

    /// Declares a parameter that the deploy engine fills with a field of a published asset:
    /// `image_uri`, `s3_bucket` or `s3_key`.
    pub fn asset_field<T>(&mut self, name: &str, asset: &str, field: &str) -> Parameter<T> {
        self.stack.declare_parameter(
            name,
            ParameterDeclaration {
                kind: ParameterType::String,
                description: "Known when the asset is published.".to_owned(),
                default: None,
                no_echo: false,
                source: Some(DeclaredSource::Known(Source::asset(asset, field))),
            },
        )
    }

    /// Declares an output.
    pub fn output<T: Property>(&mut self, name: &str, value: impl IntoValue<T>, description: &str) {
        let value: Value<T> = value.into_value();
        self.stack.declare_output(name, &value, description);
    }

    /// Has the deploy engine invoke a function each time this stack has been deployed, before the stacks that
    /// depend on it: for what templates cannot do, such as a database's migrations. A failure stops the deployment.
    /// The handle's reference (`Ref`) must be the function's name.
    pub fn invoke_after_deploy<R: Resource>(&mut self, function: &Handle<R>) {
        // A handle of another stack fails the synthesis: its stack would be the one to wait for.
        if self.stack.resource(function).is_none() {
            self.stack.errors.push(SynthError::ForeignHandle {
                stack: self.stack.id.to_string(),
                owner: function.raw().stack().to_owned(),
                logical_id: function.raw().logical_id().to_owned(),
            });
            return;
        }
        let output = format!("{}Invocation", function.raw().logical_id());
        let name: Value<String> = function.raw().reference();
        self.stack.declare_output(&output, &name, "Invoked when the stack has been deployed.");
        self.stack.invocations.push(output);
    }

    /// Declares a condition.
    pub fn condition(&mut self, name: &str, expression: ConditionExpression) -> Condition {
        self.stack.declare_condition(name, expression)
    }

    /// Declares a mapping: text by two keys, for [`Value::find_in_map`].
    pub fn mapping(&mut self, name: &str, entries: Json) {
        if self.stack.mappings.insert(name.to_owned(), entries).is_some() {
            self.stack.errors.push(SynthError::DuplicateName {
                stack: self.stack.id.to_string(),
                name: name.to_owned(),
                what: "mapping",
            });
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    match characters.next() {
        Some(first) => first.to_ascii_uppercase().to_string() + characters.as_str(),
        None => String::new(),
    }
}
