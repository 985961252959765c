//! From the construct tree to an assembly: references resolved, stacks wired, tags spread.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use crate::{
    app::{App, AppProperties, DeployValue},
    assembly::{self, Assembly, Invocation, LookupSource, Manifest, ParameterWiring, Source, StackEntry},
    canonical::to_canonical_bytes,
    intrinsic::Reference,
    resource::{Removal, TagKind, TagShape},
    stack::{DeclaredSource, Lookup, Node, Provenance, Stack},
    value::{Json, Property, Value},
};

mod assets;
mod cluster;

/// What keeps a construct tree from being rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SynthError {
    /// Two resources of a stack have the same logical id.
    #[error(
        "stack `{stack}`: {first} and {second} both get the logical id `{logical_id}` (at {source_location}); rename one of the constructs"
    )]
    DuplicateLogicalId {
        /// The stack's id.
        stack: String,
        /// The logical id.
        logical_id: String,
        /// The construct that has it.
        first: String,
        /// The construct that wants it.
        second: String,
        /// Where the second is added.
        source_location: String,
    },
    /// A logical id that CloudFormation refuses.
    #[error(
        "stack `{stack}`: {path} gets the logical id `{logical_id}`, which is not 1 to 255 letters and digits (at {source_location})"
    )]
    InvalidLogicalId {
        /// The stack's id.
        stack: String,
        /// The logical id.
        logical_id: String,
        /// The construct.
        path: String,
        /// Where it is added.
        source_location: String,
    },
    /// A name used twice.
    #[error("stack `{stack}` declares the {what} `{name}` twice")]
    DuplicateName {
        /// The stack's id.
        stack: String,
        /// The name.
        name: String,
        /// What it names.
        what: &'static str,
    },
    /// A handle of one stack was used to change another.
    #[error("stack `{stack}` cannot change `{logical_id}`: it belongs to stack `{owner}`")]
    ForeignHandle {
        /// The stack in which the handle was used.
        stack: String,
        /// The stack that has the resource.
        owner: String,
        /// The logical id.
        logical_id: String,
    },
    /// A reference to a stack that is deployed later.
    #[error(
        "stack `{stack}` refers to `{target}` of stack `{owner}`, which is deployed after it; add `{owner}` first or turn the reference round"
    )]
    WrongDirection {
        /// The stack that refers.
        stack: String,
        /// The stack that has the target.
        owner: String,
        /// The target's logical id.
        target: String,
    },
    /// A reference to something that no stack of the app has.
    #[error("stack `{stack}` refers to `{target}` of stack `{owner}`, which is not in the app")]
    Unresolved {
        /// The stack that refers.
        stack: String,
        /// The stack that should have the target.
        owner: String,
        /// The target's logical id.
        target: String,
    },
    /// A deploy-time value that is neither a literal nor a plain reference.
    #[error("{place}: a deploy-time value is a literal or one attribute of a resource, not {found}")]
    NotWirable {
        /// Where it is used.
        place: String,
        /// The expression.
        found: String,
    },
    /// Two stacks of the app have the same id.
    #[error("the app has two stacks with the id `{0}`")]
    DuplicateStack(String),
    /// Two parts of the app have the same file.
    #[error("two parts of the app would be written to {0}; rename one of them")]
    DuplicateFile(String),
    /// Something is to come after what was not added before it.
    #[error("`{who}` is to come after `{what}`, which was not added before it")]
    NotBefore {
        /// What waits.
        who: String,
        /// What it waits for.
        what: String,
    },
    /// The bucket of artifacts is named by an output that is not there.
    #[error(
        "artifacts go to the bucket that the output `{output}` of stack `{stack}` names, which is not there"
    )]
    NoArtifactBucket {
        /// The stack that should have it.
        stack: String,
        /// The output.
        output: String,
    },
    /// Several at once.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<SynthError>),
}

/// Outputs, parameters and errors that come up while references are resolved.
#[derive(Default)]
struct Wiring {
    /// Position of each stack.
    order: BTreeMap<String, usize>,
    /// Logical ids and parameters of each stack.
    names: BTreeMap<String, BTreeSet<String>>,
    /// Outputs that consumers ask for: stack -> output -> the value in the producer's own terms.
    outputs: BTreeMap<String, BTreeMap<String, Json>>,
    /// Parameters that references become: stack -> parameter -> (is a list, source).
    parameters: BTreeMap<String, BTreeMap<String, (bool, Source)>>,
    errors: Vec<SynthError>,
}

impl Wiring {
    /// The reference as the stack `user` writes it.
    fn resolve(&mut self, user: &str, reference: &Reference) -> Json {
        if !self.names.get(&reference.stack).is_some_and(|names| names.contains(&reference.logical_id)) {
            self.errors.push(SynthError::Unresolved {
                stack: user.to_owned(),
                owner: reference.stack.clone(),
                target: reference.logical_id.clone(),
            });
            return Json::Null;
        }
        if reference.stack == user {
            return local(reference);
        }
        if self.order.get(&reference.stack) >= self.order.get(user) {
            self.errors.push(SynthError::WrongDirection {
                stack: user.to_owned(),
                owner: reference.stack.clone(),
                target: reference.logical_id.clone(),
            });
            return Json::Null;
        }
        let source = self.output_of(reference);
        let Source::Output { stack, output } = &source else { return Json::Null };
        let name = format!("{}{output}", pascal(stack));
        self.parameters
            .entry(user.to_owned())
            .or_default()
            .insert(name.clone(), (reference.list, source.clone()));
        json!({ "Ref": name })
    }

    /// The output of the producer that gives the reference's value.
    fn output_of(&mut self, reference: &Reference) -> Source {
        let output = output_name(reference);
        let mut value = local(reference);
        if reference.list {
            value = json!({ "Fn::Join": [",", value] });
        }
        self.outputs.entry(reference.stack.clone()).or_default().insert(output.clone(), value);
        Source::Output { stack: reference.stack.clone(), output }
    }

    fn resolve_all(&mut self, user: &str, json: Json) -> Json {
        if let Some(reference) = Reference::from_marker(&json) {
            return self.resolve(user, &reference);
        }
        match json {
            Json::Array(items) => {
                Json::Array(items.into_iter().map(|item| self.resolve_all(user, item)).collect())
            }
            Json::Object(object) => Json::Object(
                object.into_iter().map(|(key, value)| (key, self.resolve_all(user, value))).collect(),
            ),
            other => other,
        }
    }

    /// A value as the deploy engine gets it: outside any stack.
    fn source(&mut self, place: &str, value: &Value<String>) -> Source {
        match value {
            Value::Literal(text) => Source::Literal(text.clone()),
            Value::Expression(json) => match Reference::from_marker(json) {
                Some(reference)
                    if self
                        .names
                        .get(&reference.stack)
                        .is_some_and(|names| names.contains(&reference.logical_id)) =>
                {
                    self.output_of(&reference)
                }
                Some(reference) => {
                    self.errors.push(SynthError::Unresolved {
                        stack: place.to_owned(),
                        owner: reference.stack,
                        target: reference.logical_id,
                    });
                    Source::Literal(String::new())
                }
                None => {
                    self.errors
                        .push(SynthError::NotWirable { place: place.to_owned(), found: json.to_string() });
                    Source::Literal(String::new())
                }
            },
        }
    }

    fn lookup(&mut self, place: &str, lookup: &Lookup) -> Source {
        match lookup {
            Lookup::MskBootstrapBrokers { cluster_arn, authentication } => {
                Source::Lookup(LookupSource::MskBootstrapBrokers {
                    authentication: authentication.clone(),
                    cluster_arn: Box::new(self.source(place, cluster_arn)),
                })
            }
            Lookup::MskBrokerHost { cluster_arn, broker } => Source::Lookup(LookupSource::MskBrokerHost {
                broker: *broker,
                cluster_arn: Box::new(self.source(place, cluster_arn)),
            }),
        }
    }

    fn deploy_value(&mut self, place: &str, value: &DeployValue) -> Source {
        match value {
            DeployValue::Value(value) => self.source(place, value),
            DeployValue::Lookup(lookup) => self.lookup(place, lookup),
            DeployValue::Asset { name, field } => Source::asset(name, field),
        }
    }
}

/// A reference within its own stack.
fn local(reference: &Reference) -> Json {
    match &reference.attribute {
        None => json!({ "Ref": reference.logical_id }),
        Some(attribute) => json!({ "Fn::GetAtt": [reference.logical_id, attribute] }),
    }
}

fn output_name(reference: &Reference) -> String {
    let attribute = reference.attribute.as_deref().unwrap_or("Ref");
    format!("{}{}", reference.logical_id, pascal(attribute))
}

/// Letters and digits alone, each word capitalised.
fn pascal(text: &str) -> String {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| {
            let mut characters = word.chars();
            characters
                .next()
                .map(|first| first.to_ascii_uppercase().to_string() + characters.as_str())
                .unwrap_or_default()
        })
        .collect()
}

pub(crate) fn synth(app: App) -> Result<Assembly, SynthError> {
    let App {
        properties,
        mut stacks,
        assets,
        artifact_bucket,
        workloads,
        helm_releases,
        cluster_manifests,
        not_before,
        systems,
        flows,
        streams,
        caches,
        loads,
        cluster,
        dashboards,
    } = app;
    let mut wiring = Wiring::default();
    for (position, stack) in stacks.iter_mut().enumerate() {
        wiring.errors.append(&mut stack.errors);
        if wiring.order.insert(stack.id.to_string(), position).is_some() {
            wiring.errors.push(SynthError::DuplicateStack(stack.id.to_string()));
        }
        wiring.names.insert(
            stack.id.to_string(),
            stack.index.keys().chain(stack.parameters.keys()).cloned().collect(),
        );
    }

    let mut provenance = Vec::new();
    let mut rendered = Vec::new();
    for stack in &stacks {
        let tags = merged_tags(&properties, stack);
        let (resources, awaited) = render_resources(stack, &tags, &mut wiring, &mut provenance);
        let outputs: BTreeMap<String, Json> = stack
            .outputs
            .iter()
            .map(|(name, output)| {
                let mut json = json!({ "Value": wiring.resolve_all(&stack.id, output.value.clone()) });
                if !output.description.is_empty() {
                    json["Description"] = output.description.clone().into();
                }
                (name.clone(), json)
            })
            .collect();
        let declared = declared_parameters(stack, &mut wiring);
        rendered.push((stack, tags, resources, awaited, outputs, declared));
    }

    let assets = assets::render(&assets, &mut wiring);
    let artifact_bucket = assets::bucket(artifact_bucket, &stacks, &mut wiring);
    let cluster::Rendered { workloads, helm_releases, cluster_manifests, files } =
        cluster::render(&mut wiring, &workloads, &helm_releases, &cluster_manifests, dashboards);
    wiring.errors.extend(not_before.into_iter().map(|(who, what)| SynthError::NotBefore { who, what }));
    let cluster = cluster.map(|value| wiring.deploy_value("the cluster's name", &value));
    let loads = cluster::loads(&mut wiring, loads);

    if !wiring.errors.is_empty() {
        let mut errors = wiring.errors;
        return Err(if errors.len() == 1 { errors.remove(0) } else { SynthError::Several(errors) });
    }

    let mut templates = BTreeMap::new();
    let mut entries = Vec::new();
    for (stack, tags, resources, awaited, outputs, declared) in rendered {
        let (template, entry) =
            render_stack(stack, tags, resources, &awaited, outputs, declared, &mut wiring);
        templates.insert(stack.id.to_string(), template);
        entries.push(entry);
    }
    assets::await_bucket(&mut entries, &templates, artifact_bucket.as_ref());
    let mut manifest = Manifest {
        stacks: entries,
        assets,
        artifact_bucket,
        workloads,
        helm_releases,
        cluster_manifests,
        cluster,
        systems,
        flows,
        streams,
        caches,
        loads,
        ..properties.empty_manifest()
    };
    manifest.digest = digest(&manifest, &files);
    Ok(Assembly { manifest, templates, files, provenance })
}

fn digest(manifest: &Manifest, files: &BTreeMap<String, String>) -> String {
    let json = serde_json::to_value(manifest).unwrap_or_default();
    let mut bytes = to_canonical_bytes(&json);
    for (path, text) in files {
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(assembly::sha256_hex(text.as_bytes()).as_bytes());
    }
    format!("sha256:{}", assembly::sha256_hex(&bytes))
}

fn merged_tags(properties: &AppProperties, stack: &Stack) -> BTreeMap<String, String> {
    let mut tags = properties.tags.clone();
    tags.extend(stack.properties.tags.clone());
    tags
}

/// The resources of a stack, and the other stacks that it waits for through `DependsOn` alone.
fn render_resources(
    stack: &Stack,
    tags: &BTreeMap<String, String>,
    wiring: &mut Wiring,
    provenance: &mut Vec<Provenance>,
) -> (Map<String, Json>, BTreeSet<String>) {
    let mut resources = Map::new();
    let mut awaited = BTreeSet::new();
    for node in &stack.nodes {
        provenance.push(Provenance {
            stack: stack.id.to_string(),
            logical_id: node.logical_id.clone(),
            resource_type: node.resource.resource_type().to_owned(),
            path: node.path.clone(),
            source: format!("{}:{}", node.location.file(), node.location.line()),
            waivers: node.waivers.clone(),
        });
        let mut depends_on = BTreeSet::new();
        for dependency in &node.depends_on {
            if dependency.stack() == &*stack.id {
                depends_on.insert(dependency.logical_id().to_owned());
            } else if wiring.order.get(dependency.stack()) < wiring.order.get(&*stack.id) {
                awaited.insert(dependency.stack().to_owned());
            } else {
                wiring.errors.push(SynthError::WrongDirection {
                    stack: stack.id.to_string(),
                    owner: dependency.stack().to_owned(),
                    target: dependency.logical_id().to_owned(),
                });
            }
        }
        let json = render_resource(&stack.id, node, tags, depends_on, wiring);
        resources.insert(node.logical_id.clone(), json);
    }
    (resources, awaited)
}

fn render_resource(
    stack: &str,
    node: &Node,
    tags: &BTreeMap<String, String>,
    depends_on: BTreeSet<String>,
    wiring: &mut Wiring,
) -> Json {
    let mut properties = node.resource.properties();
    if let Some(shape) = node.resource.tag_shape() {
        spread_tags(&mut properties, shape, tags);
    }
    let mut json = json!({ "Type": node.resource.resource_type() });
    if !properties.is_empty() {
        json["Properties"] = wiring.resolve_all(stack, Json::Object(properties));
    }
    if !depends_on.is_empty() {
        json["DependsOn"] = depends_on.into_iter().collect::<Vec<_>>().into();
    }
    if let Some(condition) = &node.condition {
        json["Condition"] = condition.clone().into();
    }
    // Data outlives its stack unless somebody says otherwise.
    let removal = node.removal.or_else(|| node.resource.is_stateful().then_some(Removal::Retain));
    if let Some(removal) = removal {
        json["DeletionPolicy"] = removal.deletion_policy().into();
        json["UpdateReplacePolicy"] = removal.update_replace_policy().into();
    }
    let mut metadata: Map<String, Json> =
        node.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    metadata.insert("floodgate:path".to_owned(), node.path.clone().into());
    // Other linters read their waivers from the template.
    let skipped: Vec<Json> = node
        .waivers
        .iter()
        .filter(|waiver| waiver.code.starts_with("CKV"))
        .map(|waiver| serde_json::json!({ "id": waiver.code, "comment": waiver.reason }))
        .collect();
    if !skipped.is_empty() {
        metadata.insert("checkov".to_owned(), serde_json::json!({ "skip": skipped }));
    }
    json["Metadata"] = Json::Object(metadata);
    json
}

/// Adds the stack's tags to a resource's own, which win.
fn spread_tags(properties: &mut Map<String, Json>, shape: TagShape, tags: &BTreeMap<String, String>) {
    if tags.is_empty() {
        return;
    }
    match shape.kind {
        TagKind::Map => {
            let entry = properties.entry(shape.property).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(own) = entry {
                for (key, value) in tags {
                    own.entry(key.clone()).or_insert_with(|| value.clone().into());
                }
            }
        }
        TagKind::List | TagKind::AutoScalingList => {
            let entry = properties.entry(shape.property).or_insert_with(|| Json::Array(Vec::new()));
            if let Json::Array(own) = entry {
                for (key, value) in tags {
                    if own.iter().any(|tag| tag.get("Key").and_then(Json::as_str) == Some(key)) {
                        continue;
                    }
                    let mut tag = json!({ "Key": key, "Value": value });
                    if shape.kind == TagKind::AutoScalingList {
                        tag["PropagateAtLaunch"] = true.into();
                    }
                    own.push(tag);
                }
            }
        }
    }
}

/// The parameters that a stack declares itself, and where those that the engine fills come from.
fn declared_parameters(stack: &Stack, wiring: &mut Wiring) -> (Map<String, Json>, Vec<ParameterWiring>) {
    let mut parameters = Map::new();
    let mut wired = Vec::new();
    for (name, declaration) in &stack.parameters {
        let mut json = json!({ "Type": declaration.kind.as_str() });
        if !declaration.description.is_empty() {
            json["Description"] = declaration.description.clone().into();
        }
        if let Some(default) = &declaration.default {
            json["Default"] = default.clone().into();
        }
        if declaration.no_echo {
            json["NoEcho"] = true.into();
        }
        parameters.insert(name.clone(), json);
        let source = match &declaration.source {
            None => continue,
            Some(DeclaredSource::Known(source)) => source.clone(),
            Some(DeclaredSource::Lookup(lookup)) => {
                wiring.lookup(&format!("stack {} parameter {name}", stack.id), lookup)
            }
        };
        wired.push(ParameterWiring { name: name.clone(), source });
    }
    (parameters, wired)
}

fn render_stack(
    stack: &Stack,
    tags: BTreeMap<String, String>,
    resources: Map<String, Json>,
    awaited: &BTreeSet<String>,
    mut outputs: BTreeMap<String, Json>,
    (mut parameters, mut wired): (Map<String, Json>, Vec<ParameterWiring>),
    wiring: &mut Wiring,
) -> (Json, StackEntry) {
    for (name, value) in wiring.outputs.remove(&*stack.id).unwrap_or_default() {
        outputs.entry(name).or_insert_with(|| json!({ "Value": value }));
    }
    for (name, (list, source)) in wiring.parameters.remove(&*stack.id).unwrap_or_default() {
        let kind = if list { "CommaDelimitedList" } else { "String" };
        parameters.insert(name.clone(), json!({ "Type": kind }));
        wired.push(ParameterWiring { name, source });
    }
    wired.sort_by(|a, b| a.name.cmp(&b.name));

    let mut template = Map::new();
    template.insert("AWSTemplateFormatVersion".to_owned(), "2010-09-09".into());
    if !stack.properties.description.is_empty() {
        template.insert("Description".to_owned(), stack.properties.description.clone().into());
    }
    if !stack.transforms.is_empty() {
        template.insert("Transform".to_owned(), stack.transforms.clone().into());
    }
    for (key, section) in [
        ("Parameters", parameters),
        ("Mappings", stack.mappings.clone().into_iter().collect()),
        ("Conditions", stack.conditions.clone().into_iter().collect()),
        ("Outputs", outputs.into_iter().collect()),
    ] {
        if !section.is_empty() {
            template.insert(key.to_owned(), Json::Object(section));
        }
    }
    let capabilities = capabilities(&resources, !stack.transforms.is_empty());
    template.insert("Resources".to_owned(), Json::Object(resources));
    let template = Json::Object(template);

    let mut depends_on = awaited.clone();
    for parameter in &wired {
        collect_stacks(&parameter.source, &mut depends_on);
    }
    let mut depends_on: Vec<String> = depends_on.into_iter().collect();
    depends_on.sort_by_key(|id| wiring.order.get(id).copied());
    let entry = StackEntry {
        id: stack.id.to_string(),
        name: stack.name.clone(),
        template: format!("{}.template.json", stack.id),
        template_sha256: assembly::template_sha256(&template),
        depends_on,
        capabilities,
        termination_protection: stack.properties.termination_protection,
        tags,
        parameters: wired,
        invocations: stack.invocations.iter().cloned().map(|output| Invocation { output }).collect(),
    };
    (template, entry)
}

fn collect_stacks(source: &Source, found: &mut BTreeSet<String>) {
    match source {
        Source::Output { stack, .. } => {
            found.insert(stack.clone());
        }
        Source::Lookup(
            LookupSource::MskBootstrapBrokers { cluster_arn, .. }
            | LookupSource::MskBrokerHost { cluster_arn, .. },
        ) => {
            collect_stacks(cluster_arn, found);
        }
        Source::Literal(_) | Source::Asset { .. } => {}
    }
}

/// What CloudFormation wants acknowledged: IAM resources, by name where one has a name, and macros.
fn capabilities(resources: &Map<String, Json>, transforms: bool) -> Vec<String> {
    let mut found = BTreeSet::new();
    for resource in resources.values() {
        let resource_type = resource.get("Type").and_then(Json::as_str).unwrap_or_default();
        if !resource_type.starts_with("AWS::IAM::") {
            continue;
        }
        let named = resource.get("Properties").and_then(Json::as_object).is_some_and(|properties| {
            ["RoleName", "UserName", "GroupName", "ManagedPolicyName", "InstanceProfileName"]
                .iter()
                .any(|name| properties.contains_key(*name))
        });
        found.insert(if named { "CAPABILITY_NAMED_IAM" } else { "CAPABILITY_IAM" });
    }
    if found.contains("CAPABILITY_NAMED_IAM") {
        found.remove("CAPABILITY_IAM");
    }
    if transforms {
        found.insert("CAPABILITY_AUTO_EXPAND");
    }
    found.into_iter().map(str::to_owned).collect()
}

impl Property for Reference {
    fn to_json(&self) -> Json {
        self.to_marker()
    }
}
