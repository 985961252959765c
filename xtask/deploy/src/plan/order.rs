//! Which stack before which other, and which side by side.
//!
//! A consumer comes after its producers, because they give it its parameters. Where a reference disappears it is the
//! other way round: what the producer no longer gives is still used by the deployed consumer, so the consumer is
//! updated first. Where both hold of one pair, the producer takes two steps: first it becomes what it should be, but
//! keeps what is still used; after its consumers it drops that.

use std::collections::{BTreeMap, BTreeSet};

use cfn::{Json, assembly::StackEntry};

use super::{
    ENVIRONMENT_TAG, Inputs, Part, PlanError, Present, producer,
    status::{has_come_to_be, may_hold_resources},
    transition,
};

/// What stands at a place of the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A stack of the manifest.
    Deploy {
        /// Its id.
        id: String,
        /// Which of its steps.
        part: Part,
        /// Outputs that it keeps in this step.
        keeps: Vec<String>,
    },
    /// A stack that left the manifest.
    Delete {
        /// Its name.
        name: String,
    },
}

/// A place with those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// What stands there.
    pub(super) place: Place,
    /// What must be done before, by its number among all places in the order of the waves.
    pub(super) needs: Vec<usize>,
}

/// The order.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// Places that go side by side, wave after wave.
    pub(super) waves: Vec<Vec<Placed>>,
    /// Names of stacks that left the manifest and are left alone.
    pub(super) left: Vec<String>,
}

/// A stack's step, before it is known what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// The only or the first step of a stack, by id.
    Main(String),
    /// The second step of a stack, by id.
    Drop(String),
    /// The deletion of a stack, by name.
    Delete(String),
}

#[derive(Default)]
struct Graph {
    /// What comes right after a node.
    after: BTreeMap<Node, BTreeSet<Node>>,
}

impl Graph {
    fn add(&mut self, node: &Node) {
        self.after.entry(node.clone()).or_default();
    }

    fn edge(&mut self, before: &Node, after: &Node) {
        self.add(after);
        self.after.entry(before.clone()).or_default().insert(after.clone());
    }

    /// Whether a way leads from one node to another; a node reaches itself.
    fn reaches(&self, from: &Node, to: &Node) -> bool {
        let mut open = vec![from];
        let mut seen = BTreeSet::new();
        while let Some(node) = open.pop() {
            if node == to {
                return true;
            }
            if seen.insert(node) {
                open.extend(self.after.get(node).into_iter().flatten());
            }
        }
        false
    }

    /// Nodes by the length of the longest way to them.
    ///
    /// # Errors
    ///
    /// The nodes of a circle and what comes after it.
    fn levels(&self) -> Result<Vec<Vec<&Node>>, Vec<&Node>> {
        let mut waits: BTreeMap<&Node, usize> = self.after.keys().map(|node| (node, 0)).collect();
        for after in self.after.values().flatten() {
            *waits.entry(after).or_default() += 1;
        }
        let mut levels = Vec::new();
        loop {
            let ready: Vec<&Node> =
                waits.iter().filter(|(_, count)| **count == 0).map(|(node, _)| *node).collect();
            if ready.is_empty() {
                break;
            }
            for node in &ready {
                waits.remove(node);
                for after in self.after.get(*node).into_iter().flatten() {
                    if let Some(count) = waits.get_mut(after) {
                        *count -= 1;
                    }
                }
            }
            levels.push(ready);
        }
        if waits.is_empty() { Ok(levels) } else { Err(waits.into_keys().collect()) }
    }
}

/// Who uses what of a producer that its new template no longer gives.
struct Dropped {
    /// The output.
    output: String,
    /// The stacks that use it as they are deployed, with the parameters that they get it by.
    users: Vec<(String, BTreeSet<String>)>,
}

struct Ordering<'a> {
    inputs: &'a Inputs<'a>,
    selected: Vec<&'a StackEntry>,
    pruned: Vec<&'a str>,
    graph: Graph,
    /// What stays for good, and what stays until the second step, by stack id.
    kept: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>,
    /// Stacks whose steps are known: ids of those of the manifest, names of those that left it.
    placed: BTreeSet<String>,
}

/// Orders all that is asked for.
///
/// # Errors
///
/// When stacks of the manifest depend on one another in a circle.
pub(super) fn order(inputs: &Inputs<'_>) -> Result<Order, PlanError> {
    let selected: Vec<&StackEntry> =
        inputs.manifest.stacks.iter().filter(|entry| inputs.asked.selects(&entry.id)).collect();
    let leftover = leftover(inputs);
    let pruned =
        if inputs.asked.prune && inputs.asked.only.is_empty() { leftover.clone() } else { Vec::new() };
    let left = leftover.into_iter().filter(|name| !pruned.contains(name)).map(str::to_owned).collect();
    let mut ordering = Ordering {
        inputs,
        selected,
        pruned,
        graph: Graph::default(),
        kept: BTreeMap::new(),
        placed: BTreeSet::new(),
    };
    ordering.forward();
    for entry in ordering.selected.clone().into_iter().rev() {
        ordering.backward(entry);
    }
    for name in ordering.pruned.clone() {
        ordering.deletion(name);
    }
    Ok(Order { waves: ordering.waves()?, left })
}

/// Stacks of the environment that the manifest does not name.
pub(super) fn leftover<'a>(inputs: &Inputs<'a>) -> Vec<&'a str> {
    let manifest = inputs.manifest;
    inputs
        .present
        .values()
        .map(|present| &present.deployed)
        .filter(|deployed| deployed.tags.get(ENVIRONMENT_TAG) == Some(&manifest.environment))
        .filter(|deployed| deployed.name.starts_with(&format!("{}-", manifest.prefix)))
        .filter(|deployed| manifest.stacks.iter().all(|entry| entry.name != deployed.name))
        .map(|deployed| deployed.name.as_str())
        .collect()
}

impl Ordering<'_> {
    /// Producers before consumers, as the manifest wants it.
    fn forward(&mut self) {
        for entry in &self.selected {
            let node = Node::Main(entry.id.clone());
            self.graph.add(&node);
            let wired = entry.parameters.iter().filter_map(|parameter| producer(&parameter.source));
            for before in wired.chain(entry.depends_on.iter().map(String::as_str)) {
                if before != entry.id && self.selected.iter().any(|other| other.id == before) {
                    self.graph.edge(&Node::Main(before.to_owned()), &node);
                }
            }
        }
    }

    /// The last step of a stack, once it has been placed.
    fn last(&self, id: &str) -> Node {
        let drops = Node::Drop(id.to_owned());
        if self.graph.after.contains_key(&drops) { drops } else { Node::Main(id.to_owned()) }
    }

    /// Consumers before the producer that drops what they use.
    fn backward(&mut self, entry: &StackEntry) {
        if !self.placed.insert(entry.id.clone()) {
            return;
        }
        let dropped = dropped(self.inputs, entry);
        let mut for_good = BTreeSet::new();
        let mut until_then = BTreeSet::new();
        let mut before: BTreeSet<Node> = BTreeSet::new();
        for Dropped { output, users } in dropped {
            let mut nodes = BTreeSet::new();
            let mut stays = false;
            for (user, by) in users {
                match self.last_of_user(&user) {
                    // What it keeps for others may be what uses it.
                    Some(_) if !self.kept_parameters(&user).is_disjoint(&by) => stays = true,
                    Some(node) => {
                        nodes.insert(node);
                    }
                    // It goes on using it.
                    None => stays = true,
                }
            }
            // Stacks that use each other as they are deployed: one of them goes first and keeps.
            let drops = Node::Drop(entry.id.clone());
            let circle = nodes.iter().any(|node| self.graph.reaches(&drops, node));
            if stays || circle {
                for_good.insert(output);
            } else if !nodes.is_empty() {
                until_then.insert(output);
                before.extend(nodes);
            }
        }
        let main = Node::Main(entry.id.clone());
        let splits = before.iter().any(|node| self.graph.reaches(&main, node));
        if splits {
            let drops = Node::Drop(entry.id.clone());
            self.graph.edge(&main, &drops);
            for node in &before {
                self.graph.edge(node, &drops);
            }
        } else {
            until_then.clear();
            for node in &before {
                self.graph.edge(node, &main);
            }
        }
        self.kept.insert(entry.id.clone(), (for_good, until_then));
    }

    /// What left the manifest goes after all that uses it.
    fn deletion(&mut self, name: &str) {
        if !self.placed.insert(name.to_owned()) {
            return;
        }
        let node = Node::Delete(name.to_owned());
        self.graph.add(&node);
        let Some(present) = self.inputs.present.get(name) else { return };
        for output in present.deployed.outputs.keys() {
            for (user, _) in users(self.inputs, present, output) {
                let Some(before) = self.last_of_user(&user) else { continue };
                // Stacks that use each other as they are deployed: one of them goes first.
                if !self.graph.reaches(&node, &before) {
                    self.graph.edge(&before, &node);
                }
            }
        }
    }

    /// The last step of a stack that uses something as it is deployed, which is placed first; `None` where nobody is
    /// going to touch it.
    fn last_of_user(&mut self, name: &str) -> Option<Node> {
        if let Some(entry) = self.selected.iter().find(|entry| entry.name == name).copied() {
            self.backward(entry);
            Some(self.last(&entry.id))
        } else if self.pruned.contains(&name) {
            self.deletion(name);
            Some(Node::Delete(name.to_owned()))
        } else {
            None
        }
    }

    /// The parameters that a stack goes on having because of what it keeps for good.
    fn kept_parameters(&self, name: &str) -> BTreeSet<String> {
        let entry = self.selected.iter().find(|entry| entry.name == name);
        let kept = entry.and_then(|entry| self.kept.get(&entry.id)).map(|(for_good, _)| for_good);
        let (Some(entry), Some(kept), Some(present)) = (entry, kept, self.inputs.present.get(name)) else {
            return BTreeSet::new();
        };
        let new = self.inputs.templates.get(&entry.id).unwrap_or(&Json::Null);
        let outputs: Vec<String> = kept.iter().cloned().collect();
        transition::keep(new, &present.template, &outputs).1
    }

    fn waves(&self) -> Result<Vec<Vec<Placed>>, PlanError> {
        let mut levels = self.graph.levels().map_err(|circle| PlanError::Circle {
            stacks: circle
                .into_iter()
                .map(|node| match node {
                    Node::Main(name) | Node::Drop(name) | Node::Delete(name) => name.clone(),
                })
                .collect(),
        })?;
        let names = |names: &[&BTreeSet<String>]| -> Vec<String> {
            names.iter().copied().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect()
        };
        let nothing = (BTreeSet::new(), BTreeSet::new());
        let place = |node: &Node| match node {
            Node::Delete(name) => Place::Delete { name: name.clone() },
            Node::Main(id) => {
                let (for_good, until_then) = self.kept.get(id).unwrap_or(&nothing);
                let split = self.graph.after.contains_key(&Node::Drop(id.clone()));
                let part = if split { Part::First } else { Part::Whole };
                Place::Deploy { id: id.clone(), part, keeps: names(&[for_good, until_then]) }
            }
            Node::Drop(id) => {
                let (for_good, _) = self.kept.get(id).unwrap_or(&nothing);
                Place::Deploy { id: id.clone(), part: Part::Last, keeps: names(&[for_good]) }
            }
        };
        // Within a wave the manifest's order, so that the same is always told alike.
        let rank = |node: &Node| match node {
            Node::Main(id) | Node::Drop(id) => {
                self.inputs.manifest.stacks.iter().position(|entry| entry.id == *id)
            }
            Node::Delete(_) => None,
        };
        for level in &mut levels {
            level.sort_by_key(|node| (rank(node).is_none(), rank(node), (*node).clone()));
        }
        let numbers: BTreeMap<&Node, usize> =
            levels.iter().flatten().enumerate().map(|(number, node)| (*node, number)).collect();
        let mut needs: BTreeMap<&Node, BTreeSet<usize>> = BTreeMap::new();
        for (before, after) in &self.graph.after {
            for node in after {
                needs.entry(node).or_default().extend(numbers.get(before));
            }
        }
        let placed = |node: &Node| Placed {
            place: place(node),
            needs: needs.get(node).into_iter().flatten().copied().collect(),
        };
        Ok(levels.into_iter().map(|level| level.into_iter().map(placed).collect()).collect())
    }
}

/// The outputs that a stack has and its new template has not, as far as somebody uses them.
fn dropped(inputs: &Inputs<'_>, entry: &StackEntry) -> Vec<Dropped> {
    let Some(present) = inputs.present.get(&entry.name) else { return Vec::new() };
    if !has_come_to_be(&present.deployed.status) {
        return Vec::new();
    }
    let gives = |output: &str| {
        inputs.templates.get(&entry.id).and_then(|template| template.get("Outputs")?.get(output)).is_some()
    };
    present
        .deployed
        .outputs
        .keys()
        .filter(|output| {
            !gives(output) && present.template.get("Outputs").and_then(|all| all.get(*output)).is_some()
        })
        .map(|output| Dropped { output: output.clone(), users: users(inputs, present, output) })
        .filter(|dropped| !dropped.users.is_empty())
        .collect()
}

/// A value of so many characters is no number, version or size: where it turns up, it came from where it is given.
const TELLING_CHARACTERS: usize = 12;

/// The stacks that use an output as they are deployed, with the parameters that they get it by. CloudFormation does not know it; a parameter
/// tells it: by the name that rendering gives to a reference (its value may be an old one), or by a value that tells.
pub(super) fn users(inputs: &Inputs<'_>, of: &Present, output: &str) -> Vec<(String, BTreeSet<String>)> {
    let Some(value) = of.deployed.outputs.get(output) else { return Vec::new() };
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let id = of.deployed.name.strip_prefix(&inputs.manifest.prefix).unwrap_or(&of.deployed.name);
    let reference = plain(&format!("{id}{output}"));
    let gets = |(name, given): (&String, &String)| {
        plain(name) == reference || (given == value && value.chars().count() >= TELLING_CHARACTERS)
    };
    inputs
        .present
        .values()
        .map(|user| &user.deployed)
        .filter(|user| user.name != of.deployed.name && may_hold_resources(&user.status))
        .map(|user| {
            let by = user.parameters.iter().filter(|parameter| gets(*parameter));
            (user.name.clone(), by.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>())
        })
        .filter(|(_, by)| !by.is_empty())
        .collect()
}
