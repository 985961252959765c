//! A CloudFormation without resources behind it, which refuses what AWS refuses: an update of a stack in a status that
//! takes none, a second operation on a stack, parameters without a value or a declaration, references to nothing, a
//! capability that is not given, the deletion of a protected stack, the retaining of resources of a whole stack. What
//! AWS would let happen and nobody wants, the deletion of what another stack still uses, it writes down.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use anyhow::{Result, bail};
use cfn::{Json, to_canonical_bytes};

use crate::{
    cloudformation::{
        ChangeSet, CloudFormation, Deployed, NOT_ECHOED, ResourceChange, StackResource, Target,
    },
    events::ResourceEvent,
};

/// A resource that is there.
#[derive(Clone, Debug, PartialEq)]
struct Resource {
    kind: String,
    physical_id: String,
    properties: Json,
    status: String,
}

/// What a stack was, to go back to.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    template: Json,
    parameters: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    resources: BTreeMap<String, Resource>,
}

#[derive(Clone, Debug)]
enum Operation {
    /// Resources are made, changed and then removed, in this order.
    Apply {
        create: bool,
        todo: VecDeque<String>,
        before: Snapshot,
    },
    /// What was made is unmade.
    RollBack {
        create: bool,
        todo: VecDeque<String>,
        before: Snapshot,
    },
    Delete {
        todo: VecDeque<String>,
        retain: Vec<String>,
    },
}

#[derive(Clone, Debug, Default)]
struct Stack {
    deployed: Deployed,
    template: Json,
    resources: BTreeMap<String, Resource>,
    events: Vec<(String, ResourceEvent)>,
    change_set: Option<(Target, bool, ChangeSet)>,
    operation: Option<Operation>,
    /// Where a failed rollback would go.
    before: Option<Snapshot>,
}

/// The simulation.
#[derive(Default)]
pub(crate) struct Simulation {
    stacks: RefCell<BTreeMap<String, Stack>>,
    number: Cell<usize>,
    /// What happens to the next operations on resources: true fails. None fails when it is empty.
    pub(crate) failures: RefCell<VecDeque<bool>>,
    /// How many calls are answered before whoever calls is killed.
    pub(crate) calls_left: Cell<Option<usize>>,
    /// What should not have happened.
    pub(crate) violations: RefCell<Vec<String>>,
    /// How many stacks were worked on at the same time, at most.
    pub(crate) side_by_side: Cell<usize>,
    /// Stacks whose creation or update has ended well, in that order.
    pub(crate) ended: RefCell<Vec<String>>,
}

impl Simulation {
    fn call(&self) -> Result<()> {
        match self.calls_left.get() {
            Some(0) => bail!("killed"),
            Some(left) => self.calls_left.set(Some(left - 1)),
            None => {}
        }
        Ok(())
    }

    fn fails(&self) -> bool {
        self.failures.borrow_mut().pop_front().unwrap_or(false)
    }

    fn next(&self, prefix: &str) -> String {
        self.number.set(self.number.get() + 1);
        format!("{prefix}-{:06}", self.number.get())
    }

    /// The templates and parameters of all stacks that are there.
    pub(crate) fn state(&self) -> BTreeMap<String, (String, Json, BTreeMap<String, String>)> {
        let stacks = self.stacks.borrow();
        let all = stacks.iter().filter(|(_, stack)| stack.deployed.status != "DELETE_COMPLETE");
        all.map(|(name, stack)| {
            let deployed = &stack.deployed;
            (name.clone(), (deployed.status.clone(), stack.template.clone(), deployed.parameters.clone()))
        })
        .collect()
    }

    fn event(&self, stack: &mut Stack, logical_id: &str, kind: &str, status: &str, reason: Option<&str>) {
        let event = ResourceEvent {
            logical_id: logical_id.to_owned(),
            resource_type: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
        };
        stack.events.push((self.next("event"), event));
    }

    fn enter(&self, stack: &mut Stack, status: &str) {
        stack.deployed.status = status.to_owned();
        let name = stack.deployed.name.clone();
        self.event(stack, &name, "AWS::CloudFormation::Stack", status, None);
    }

    /// A moment: every operation gets one resource further.
    fn tick(&self) {
        let names: Vec<String> = self.stacks.borrow().keys().cloned().collect();
        let busy = self.stacks.borrow().values().filter(|stack| stack.operation.is_some()).count();
        self.side_by_side.set(self.side_by_side.get().max(busy));
        for name in names {
            let Some(mut stack) = self.stacks.borrow_mut().remove(&name) else { continue };
            if let Some(operation) = stack.operation.take() {
                self.advance(&mut stack, operation);
            }
            self.stacks.borrow_mut().insert(name, stack);
        }
    }

    fn advance(&self, stack: &mut Stack, operation: Operation) {
        match operation {
            Operation::Apply { create, mut todo, before } => match todo.pop_front() {
                Some(id) => match self.apply(stack, &id) {
                    Ok(()) => stack.operation = Some(Operation::Apply { create, todo, before }),
                    Err(reason) => {
                        let kind = kind(&stack.template, &id);
                        let verb = if before.resources.contains_key(&id) { "UPDATE" } else { "CREATE" };
                        self.event(stack, &id, &kind, &format!("{verb}_FAILED"), Some(&reason));
                        self.enter(
                            stack,
                            if create { "ROLLBACK_IN_PROGRESS" } else { "UPDATE_ROLLBACK_IN_PROGRESS" },
                        );
                        let todo = stack.resources.keys().cloned().collect();
                        stack.operation = Some(Operation::RollBack { create, todo, before });
                    }
                },
                None => {
                    stack.deployed.outputs = outputs(stack);
                    let gone: Vec<String> = stack
                        .resources
                        .keys()
                        .filter(|id| section(&stack.template, "Resources", id).is_none())
                        .cloned()
                        .collect();
                    for id in gone {
                        self.remove(stack, &id);
                    }
                    self.enter(stack, if create { "CREATE_COMPLETE" } else { "UPDATE_COMPLETE" });
                    self.ended.borrow_mut().push(stack.deployed.name.clone());
                }
            },
            Operation::RollBack { create, mut todo, before } => match todo.pop_front() {
                Some(id) if self.fails() => {
                    let kind = kind(&stack.template, &id);
                    self.event(stack, &id, &kind, "UPDATE_FAILED", Some("cannot go back"));
                    self.enter(stack, if create { "ROLLBACK_FAILED" } else { "UPDATE_ROLLBACK_FAILED" });
                    stack.before = Some(before);
                }
                Some(id) => {
                    match before.resources.get(&id) {
                        Some(was) => {
                            stack.resources.insert(id, was.clone());
                        }
                        None => self.remove(stack, &id),
                    }
                    stack.operation = Some(Operation::RollBack { create, todo, before });
                }
                None => {
                    stack.template = before.template;
                    stack.deployed.parameters = before.parameters;
                    stack.deployed.tags = before.tags;
                    stack.deployed.outputs = before.outputs;
                    self.enter(stack, if create { "ROLLBACK_COMPLETE" } else { "UPDATE_ROLLBACK_COMPLETE" });
                }
            },
            Operation::Delete { mut todo, retain } => match todo.pop_front() {
                Some(id) if retain.contains(&id) => {
                    stack.resources.remove(&id);
                    stack.operation = Some(Operation::Delete { todo, retain });
                }
                Some(id) if self.fails() => {
                    if let Some(resource) = stack.resources.get_mut(&id) {
                        resource.status = "DELETE_FAILED".to_owned();
                    }
                    let kind = kind(&stack.template, &id);
                    self.event(stack, &id, &kind, "DELETE_FAILED", Some("it does not go"));
                    self.enter(stack, "DELETE_FAILED");
                }
                Some(id) => {
                    self.remove(stack, &id);
                    stack.operation = Some(Operation::Delete { todo, retain });
                }
                None => self.enter(stack, "DELETE_COMPLETE"),
            },
        }
    }

    /// Makes or changes a resource.
    fn apply(&self, stack: &mut Stack, id: &str) -> Result<(), String> {
        let Some(declared) = section(&stack.template, "Resources", id) else { return Ok(()) };
        let properties = resolved(declared.get("Properties").unwrap_or(&Json::Null), stack);
        let mut texts = Vec::new();
        strings(&properties, &mut texts);
        for text in texts.iter().filter(|text| text.starts_with("physical-")) {
            let own = stack.resources.values().any(|resource| resource.physical_id == **text);
            let others = self.stacks.borrow();
            let there = own
                || others
                    .values()
                    .any(|other| other.resources.values().any(|resource| resource.physical_id == **text));
            if !there {
                return Err(format!("{text} does not exist"));
            }
        }
        if self.fails() {
            return Err("the service does not do it".to_owned());
        }
        let kind = kind(&stack.template, id);
        let was = stack.resources.get(id);
        let (verb, physical_id) = match was {
            Some(was) => ("UPDATE", was.physical_id.clone()),
            None => ("CREATE", self.next("physical")),
        };
        let status = format!("{verb}_COMPLETE");
        self.event(stack, id, &kind, &status, None);
        stack.resources.insert(id.to_owned(), Resource { kind, physical_id, properties, status });
        Ok(())
    }

    fn remove(&self, stack: &mut Stack, id: &str) {
        let Some(resource) = stack.resources.remove(id) else { return };
        self.event(stack, id, &resource.kind, "DELETE_COMPLETE", None);
        for other in self.stacks.borrow().values() {
            for (user, used_by) in &other.resources {
                let mut texts = Vec::new();
                strings(&used_by.properties, &mut texts);
                if texts.iter().any(|text| **text == resource.physical_id) {
                    self.violations.borrow_mut().push(format!(
                        "{}/{id} is deleted while {}/{user} uses it",
                        stack.deployed.name, other.deployed.name
                    ));
                }
            }
        }
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Stack) -> Result<T>) -> Result<T> {
        self.call()?;
        let mut stacks = self.stacks.borrow_mut();
        match stacks.values_mut().find(|stack| stack.deployed.name == name || stack.deployed.id == name) {
            Some(stack) if stack.deployed.status != "DELETE_COMPLETE" => act(stack),
            _ => bail!("Stack with id {name} does not exist"),
        }
    }
}

impl CloudFormation for Simulation {
    async fn describe(&self, name: &str) -> Result<Option<Deployed>> {
        self.call()?;
        let stacks = self.stacks.borrow();
        // By its id a stack is found after it was deleted, by its name it is not.
        let by_name =
            |stack: &&Stack| stack.deployed.name == name && stack.deployed.status != "DELETE_COMPLETE";
        let found = stacks.values().find(|stack| by_name(stack) || stack.deployed.id == name);
        Ok(found.map(|stack| stack.deployed.clone()))
    }

    async fn list(&self) -> Result<Vec<Deployed>> {
        self.call()?;
        let stacks = self.stacks.borrow();
        let there = stacks.values().filter(|stack| stack.deployed.status != "DELETE_COMPLETE");
        Ok(there.map(|stack| stack.deployed.clone()).collect())
    }

    async fn template(&self, name: &str) -> Result<Json> {
        self.with(name, |stack| Ok(stack.template.clone()))
    }

    async fn create_change_set(&self, target: &Target, create: bool) -> Result<()> {
        self.call()?;
        check(target)?;
        let mut stacks = self.stacks.borrow_mut();
        let there = stacks.get(&target.name).filter(|stack| stack.deployed.status != "DELETE_COMPLETE");
        let status = there.map(|stack| stack.deployed.status.clone()).unwrap_or_default();
        match (create, status.as_str()) {
            (true, "" | "REVIEW_IN_PROGRESS") => {}
            (true, _) => bail!("Stack [{}] already exists (AlreadyExistsException)", target.name),
            (false, "") => bail!("Stack [{}] does not exist (ValidationError)", target.name),
            (false, "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_ROLLBACK_COMPLETE" | "UPDATE_FAILED") => {
            }
            (false, status) => {
                bail!("Stack:{} is in {status} state and can not be updated. (ValidationError)", target.name)
            }
        }
        if create && status.is_empty() {
            let deployed = Deployed {
                name: target.name.clone(),
                id: self.next("stack"),
                status: "REVIEW_IN_PROGRESS".to_owned(),
                tags: target.tags.clone(),
                ..Deployed::default()
            };
            stacks.insert(target.name.clone(), Stack { deployed, ..Stack::default() });
        }
        let Some(stack) = stacks.get_mut(&target.name) else { bail!("no stack") };
        let same = to_canonical_bytes(&stack.template) == to_canonical_bytes(&target.template)
            && stack.deployed.parameters == target.parameters
            && stack.deployed.tags == target.tags;
        let change_set = if same && !create {
            ChangeSet {
                status: "FAILED".to_owned(),
                reason: "The submitted information didn't contain changes.".to_owned(),
                changes: Vec::new(),
            }
        } else {
            let resources = target.template.get("Resources").and_then(Json::as_object);
            let changes = resources
                .into_iter()
                .flatten()
                .map(|(id, _)| ResourceChange {
                    action: if stack.resources.contains_key(id) { "Modify" } else { "Add" }.to_owned(),
                    logical_id: id.clone(),
                    resource_type: kind(&target.template, id),
                    replacement: "False".to_owned(),
                    scope: Vec::new(),
                })
                .collect();
            ChangeSet { status: "CREATE_COMPLETE".to_owned(), reason: String::new(), changes }
        };
        stack.change_set = Some((target.clone(), create, change_set));
        Ok(())
    }

    async fn describe_change_set(&self, name: &str) -> Result<ChangeSet> {
        self.with(name, |stack| match &stack.change_set {
            Some((_, _, change_set)) => Ok(change_set.clone()),
            None => bail!("ChangeSet does not exist"),
        })
    }

    async fn delete_change_set(&self, name: &str) -> Result<()> {
        self.call()?;
        if let Some(stack) = self.stacks.borrow_mut().get_mut(name) {
            stack.change_set = None;
        }
        Ok(())
    }

    async fn execute_change_set(&self, name: &str) -> Result<()> {
        self.with(name, |stack| {
            let Some((target, create, change_set)) = stack.change_set.take() else {
                bail!("ChangeSet does not exist");
            };
            if change_set.status != "CREATE_COMPLETE" || stack.operation.is_some() {
                bail!("InvalidChangeSetStatus");
            }
            let before = Snapshot {
                template: std::mem::replace(&mut stack.template, target.template),
                parameters: std::mem::replace(&mut stack.deployed.parameters, target.parameters),
                tags: std::mem::replace(&mut stack.deployed.tags, target.tags),
                outputs: stack.deployed.outputs.clone(),
                resources: stack.resources.clone(),
            };
            let todo = in_order(&stack.template);
            self.enter(stack, if create { "CREATE_IN_PROGRESS" } else { "UPDATE_IN_PROGRESS" });
            stack.operation = Some(Operation::Apply { create, todo, before });
            Ok(())
        })
    }

    async fn newest_events(&self, name: &str) -> Result<BTreeSet<String>> {
        let events = self.new_events(name, &BTreeSet::new()).await?;
        Ok(events.into_iter().map(|(id, _)| id).collect())
    }

    async fn new_events(&self, name: &str, seen: &BTreeSet<String>) -> Result<Vec<(String, ResourceEvent)>> {
        self.call()?;
        let stacks = self.stacks.borrow();
        let found = stacks.values().find(|stack| stack.deployed.name == name || stack.deployed.id == name);
        let events = found.map(|stack| stack.events.clone()).unwrap_or_default();
        Ok(events.into_iter().filter(|(id, _)| !seen.contains(id)).collect())
    }

    async fn delete_stack(&self, name: &str, retain: &[String], _role_arn: Option<&str>) -> Result<()> {
        self.with(name, |stack| {
            if stack.deployed.protected {
                bail!("Stack [{name}] cannot be deleted while TerminationProtection is enabled");
            }
            if stack.operation.is_some() {
                bail!("Stack [{name}] cannot be deleted while in status {}", stack.deployed.status);
            }
            if !retain.is_empty() && stack.deployed.status != "DELETE_FAILED" {
                bail!("RetainResources can only be specified for a stack in DELETE_FAILED state");
            }
            let todo = in_order(&stack.template).into_iter().rev();
            let todo = todo.filter(|id| stack.resources.contains_key(id)).collect();
            self.enter(stack, "DELETE_IN_PROGRESS");
            stack.operation = Some(Operation::Delete { todo, retain: retain.to_vec() });
            Ok(())
        })
    }

    async fn continue_update_rollback(
        &self,
        name: &str,
        skip: &[String],
        _role_arn: Option<&str>,
    ) -> Result<()> {
        self.with(name, |stack| {
            let (true, Some(before)) =
                (stack.deployed.status == "UPDATE_ROLLBACK_FAILED", stack.before.take())
            else {
                bail!("Stack [{name}] is in {} and cannot go on rolling back", stack.deployed.status);
            };
            let todo = stack.resources.keys().filter(|id| !skip.contains(id)).cloned().collect();
            self.enter(stack, "UPDATE_ROLLBACK_IN_PROGRESS");
            stack.operation = Some(Operation::RollBack { create: false, todo, before });
            Ok(())
        })
    }

    async fn rollback_stack(&self, name: &str, _role_arn: Option<&str>) -> Result<()> {
        self.with(name, |stack| bail!("Stack [{name}] is in {}: nothing to roll back", stack.deployed.status))
    }

    async fn protect(&self, name: &str, protected: bool) -> Result<()> {
        self.with(name, |stack| {
            stack.deployed.protected = protected;
            Ok(())
        })
    }

    async fn resources(&self, name: &str) -> Result<Vec<StackResource>> {
        self.with(name, |stack| {
            Ok(stack
                .resources
                .iter()
                .map(|(id, resource)| StackResource {
                    logical_id: id.clone(),
                    resource_type: resource.kind.clone(),
                    status: resource.status.clone(),
                    physical_id: resource.physical_id.clone(),
                })
                .collect())
        })
    }

    async fn pause(&self, _looks: u32) {
        self.tick();
        tokio::task::yield_now().await;
    }
}

/// What CloudFormation looks at before it makes a change set.
fn check(target: &Target) -> Result<()> {
    let declared = |name: &str| section(&target.template, "Parameters", name).is_some();
    for name in target.parameters.keys() {
        if !declared(name) {
            bail!("Parameters: [{name}] do not exist in the template (ValidationError)");
        }
    }
    for (name, parameter) in target.template.get("Parameters").and_then(Json::as_object).into_iter().flatten()
    {
        let given = target.parameters.get(name).is_some_and(|value| value != NOT_ECHOED);
        if !given && parameter.get("Default").is_none() {
            bail!("Parameters: [{name}] must have values (ValidationError)");
        }
    }
    let mut names = Vec::new();
    references(&target.template, &mut names);
    for name in names {
        if !declared(&name) && section(&target.template, "Resources", &name).is_none() {
            bail!("Template format error: Unresolved resource dependencies [{name}] (ValidationError)");
        }
    }
    for (id, _) in target.template.get("Resources").and_then(Json::as_object).into_iter().flatten() {
        let iam = kind(&target.template, id).starts_with("AWS::IAM::");
        if iam && !target.capabilities.iter().any(|capability| capability.contains("IAM")) {
            bail!("Requires capabilities : [CAPABILITY_IAM] (InsufficientCapabilitiesException)");
        }
    }
    Ok(())
}

fn section<'a>(template: &'a Json, section: &str, name: &str) -> Option<&'a Json> {
    template.get(section)?.get(name)
}

fn kind(template: &Json, id: &str) -> String {
    let kind = section(template, "Resources", id).and_then(|resource| resource.get("Type"));
    kind.and_then(Json::as_str).unwrap_or("AWS::Unknown::Type").to_owned()
}

/// The resources of a template, what is referred to before what refers to it.
fn in_order(template: &Json) -> VecDeque<String> {
    let resources = template.get("Resources").and_then(Json::as_object);
    let mut open: Vec<(&String, Vec<String>)> = resources
        .into_iter()
        .flatten()
        .map(|(id, json)| {
            let mut names = Vec::new();
            references(json, &mut names);
            names.retain(|name| name != id && section(template, "Resources", name).is_some());
            (id, names)
        })
        .collect();
    let mut order = VecDeque::new();
    while !open.is_empty() {
        let ready = open.iter().position(|(_, names)| names.iter().all(|name| order.contains(name)));
        let (id, _) = open.remove(ready.unwrap_or(0));
        order.push_back(id.clone());
    }
    order
}

fn references(json: &Json, names: &mut Vec<String>) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| references(item, names)),
        Json::Object(members) => {
            for (key, value) in members {
                match key.as_str() {
                    "Ref" => names.extend(value.as_str().map(str::to_owned)),
                    "Fn::GetAtt" => names.extend(value.get(0).and_then(Json::as_str).map(str::to_owned)),
                    _ => references(value, names),
                }
            }
        }
        _ => {}
    }
}

/// A value with its references resolved: a resource's is its physical id, the attribute `Version` is its property.
fn resolved(json: &Json, stack: &Stack) -> Json {
    match json {
        Json::Array(items) => items.iter().map(|item| resolved(item, stack)).collect(),
        Json::Object(members) => {
            if let Some(name) = members.get("Ref").and_then(Json::as_str) {
                let parameter = stack.deployed.parameters.get(name);
                let resource = stack.resources.get(name).map(|resource| &resource.physical_id);
                return parameter.or(resource).map_or(Json::Null, |text| text.clone().into());
            }
            if let Some(path) = members.get("Fn::GetAtt").and_then(Json::as_array) {
                let id = path.first().and_then(Json::as_str).unwrap_or_default();
                let property = path.get(1).and_then(Json::as_str).unwrap_or_default();
                let resource = stack.resources.get(id);
                return resource
                    .and_then(|resource| resource.properties.get(property).cloned())
                    .unwrap_or(Json::Null);
            }
            members.iter().map(|(key, value)| (key.clone(), resolved(value, stack))).collect()
        }
        other => other.clone(),
    }
}

fn outputs(stack: &Stack) -> BTreeMap<String, String> {
    let declared = stack.template.get("Outputs").and_then(Json::as_object);
    declared
        .into_iter()
        .flatten()
        .filter_map(|(name, output)| {
            let value = resolved(output.get("Value")?, stack);
            Some((name.clone(), value.as_str()?.to_owned()))
        })
        .collect()
}

fn strings<'a>(json: &'a Json, found: &mut Vec<&'a str>) {
    match json {
        Json::String(text) => found.push(text),
        Json::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Json::Object(members) => members.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}
