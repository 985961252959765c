//! Plans carried out against a simulated CloudFormation: whatever fails, and wherever the engine is killed, running it
//! again ends with what should be, and nothing is ever deleted that another stack uses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cfn::{
    AppProperties, Json,
    assembly::{Manifest, ParameterWiring, Source, StackEntry, template_sha256},
};
use proptest::prelude::*;
use serde_json::json;

use super::{Action, Asked, ENVIRONMENT_TAG, Part, Plan, render, transition};
use crate::{
    cloudformation::{CloudFormation, Target},
    execute::{Approve, Beside, Execution, Prepared, Underway},
    report::{Format, Reporter},
    simulation::Simulation,
    wiring::Known,
};

/// Whatever is prepared is approved, by wave or stack by stack; nothing else is needed.
struct Willing {
    by_wave: bool,
}

impl Beside for Willing {
    async fn before(&self, _: &StackEntry, _: &mut Known) -> anyhow::Result<()> {
        Ok(())
    }

    async fn template_url(&self, _: &StackEntry, body: &str, _: &Known) -> anyhow::Result<String> {
        Ok(format!("https://example.com/{}", body.len()))
    }

    async fn after(&self, _: &StackEntry, _: &Known) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Approve for Willing {
    fn by_wave(&self) -> bool {
        self.by_wave
    }

    async fn approve(&self, _: &[Prepared<'_>]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// An assembly without files.
#[derive(Clone, Debug)]
struct App {
    manifest: Manifest,
    templates: BTreeMap<String, Json>,
    /// Whether its changes are looked at wave by wave.
    by_wave: bool,
}

/// Small numbers that follow from a seed (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or_default() % bound
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// What a resource uses: a resource of another stack, itself or one of its properties.
type Use = (String, String, bool);

/// stack -> resource -> (version, what it uses), in an order in which each uses only what comes before.
type Sketch = Vec<(String, BTreeMap<String, (usize, Vec<Use>)>)>;

fn sketch(seed: u64) -> Sketch {
    let mut dice = Dice(seed | 1);
    let mut ids: Vec<String> = (0..5).map(|number| format!("s{number}")).collect();
    // Mostly the same order: what is turned round is the rarer case.
    if dice.chance(40) {
        let (a, b) = (dice.below(5), dice.below(5));
        ids.swap(a, b);
    }
    ids.retain(|_| dice.chance(85));
    let mut sketch: Sketch = Vec::new();
    for id in ids {
        let mut resources = BTreeMap::new();
        for name in ["Aa", "Bb", "Cc"] {
            if !dice.chance(75) {
                continue;
            }
            let mut uses = Vec::new();
            for (stack, others) in &sketch {
                for other in others.keys() {
                    if dice.chance(25) {
                        uses.push((stack.clone(), other.clone(), dice.chance(60)));
                    }
                }
            }
            resources.insert(name.to_owned(), (dice.below(3), uses));
        }
        // CloudFormation takes no stack without resources.
        resources.entry("Zz".to_owned()).or_insert((0, Vec::new()));
        sketch.push((id, resources));
    }
    sketch
}

fn app(sketch: &Sketch) -> App {
    let mut templates: BTreeMap<String, Json> = BTreeMap::new();
    let mut stacks: Vec<StackEntry> = Vec::new();
    for (id, resources) in sketch {
        let mut template = json!({ "Resources": {} });
        let mut parameters = BTreeMap::new();
        let mut depends_on = BTreeSet::new();
        for (name, (version, uses)) in resources {
            let mut given = Vec::new();
            for (stack, resource, whole) in uses {
                let what = if *whole { "Ref" } else { "Version" };
                let output = format!("{resource}{what}");
                let parameter = format!("{}{output}", stack.to_uppercase());
                let value = if *whole {
                    json!({ "Ref": resource })
                } else {
                    json!({ "Fn::GetAtt": [resource, "Version"] })
                };
                if let Some(producer) = templates.get_mut(stack) {
                    producer["Outputs"][&output] = json!({ "Value": value });
                }
                template["Parameters"][&parameter] = json!({ "Type": "String" });
                given.push(json!({ "Ref": parameter }));
                parameters.insert(parameter, Source::Output { stack: stack.clone(), output });
                depends_on.insert(stack.clone());
            }
            template["Resources"][name] = json!({
                "Type": "AWS::Test::Thing",
                "Properties": { "Version": format!("v{version}"), "Uses": given },
            });
        }
        stacks.push(StackEntry {
            id: id.clone(),
            name: format!("fg-test-{id}"),
            template: format!("{id}.template.json"),
            template_sha256: template_sha256(&template),
            depends_on: depends_on.into_iter().collect(),
            tags: BTreeMap::from([(ENVIRONMENT_TAG.to_owned(), "test".to_owned())]),
            parameters: parameters
                .into_iter()
                .map(|(name, source)| ParameterWiring { name, source })
                .collect(),
            ..StackEntry::default()
        });
        templates.insert(id.clone(), template);
    }
    let properties = AppProperties {
        provider: "local".to_owned(),
        ..AppProperties::new("test", "000000000000", "eu-west-1", "fg-test")
    };
    let manifest = Manifest { stacks, ..properties.empty_manifest() };
    App { manifest, templates, by_wave: false }
}

fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Runs the engine once, to its end or until it is killed, or plans only.
async fn engine<T>(
    cloud: &Simulation,
    app: &App,
    asked: &Asked,
    run: impl AsyncFnOnce(&Execution<'_, Simulation, Willing, Willing>, &mut Known) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let underway = Underway::default();
    let reporter = Reporter::new(Format::Human);
    let willing = Willing { by_wave: app.by_wave };
    let execution = Execution {
        cloud,
        beside: &willing,
        approver: &willing,
        manifest: &app.manifest,
        templates: &app.templates,
        sources: &BTreeMap::new(),
        asked,
        concurrency: 3,
        reporter: &reporter,
        underway: &underway,
    };
    run(&execution, &mut Known::default()).await
}

async fn deploy(cloud: &Simulation, app: &App, asked: &Asked) -> anyhow::Result<usize> {
    engine(cloud, app, asked, async |execution, known| execution.run(known).await).await
}

async fn planned(cloud: &Simulation, app: &App, asked: &Asked) -> Plan {
    engine(cloud, app, asked, async |execution, known| Ok(execution.plan(known).await?.0)).await.unwrap()
}

/// Whether each stack has its template; what stacks that left the manifest and are left alone use may be kept.
fn is_reached(cloud: &Simulation, app: &App, prune: bool) -> Result<(), String> {
    let state = cloud.state();
    for entry in &app.manifest.stacks {
        let Some((status, template, parameters)) = state.get(&entry.name) else {
            return Err(format!("{} is not there", entry.name));
        };
        let wanted = &app.templates[&entry.id];
        let mut template = template.clone();
        if !prune {
            for section in ["Parameters", "Resources", "Outputs"] {
                let has = |name: &String| wanted.get(section).is_some_and(|all| all.get(name).is_some());
                if let Some(members) = template.get_mut(section).and_then(Json::as_object_mut) {
                    members.retain(|name, _| has(name));
                    if members.is_empty() {
                        template.as_object_mut().unwrap().remove(section);
                    }
                }
            }
        }
        if !status.ends_with("E_COMPLETE") || &template != wanted {
            return Err(format!("{} is {status}: {template:#}", entry.name));
        }
        if prune && parameters.len() != entry.parameters.len() {
            return Err(format!("{}: {parameters:?}", entry.name));
        }
    }
    Ok(())
}

/// Deploys with things going wrong, several times, then without, until it succeeds.
async fn struggle(cloud: &Simulation, app: &App, asked: &Asked, dice: &mut Dice) -> Result<(), String> {
    for _ in 0..dice.below(5) {
        cloud.calls_left.set(dice.chance(50).then(|| dice.below(120)));
        let failures: VecDeque<bool> = (0..dice.below(40)).map(|_| dice.chance(12)).collect();
        *cloud.failures.borrow_mut() = failures;
        let _ = deploy(cloud, app, asked).await;
        // Sometimes what was begun goes on before somebody tries again.
        for _ in 0..dice.below(8) {
            cloud.pause(0).await;
        }
    }
    cloud.calls_left.set(None);
    cloud.failures.borrow_mut().clear();
    deploy(cloud, app, asked).await.map_err(|error| format!("{error:#}"))?;
    is_reached(cloud, app, asked.prune)?;
    let again = planned(cloud, app, asked).await;
    if !again.is_done() {
        return Err(format!("not done: {}", render(&again, "test")));
    }
    let violations = cloud.violations.borrow();
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    /// From any app to any other, through any failures.
    #[test]
    fn every_order_of_failures_ends_with_what_should_be(from in any::<u64>(), to in any::<u64>(), luck in any::<u64>(), prune in any::<bool>(), by_wave in any::<bool>()) {
        let (before, after) = (App { by_wave, ..app(&sketch(from)) }, App { by_wave, ..app(&sketch(to)) });
        let cloud = Simulation::default();
        let mut dice = Dice(luck | 1);
        let outcome = within(async {
            struggle(&cloud, &before, &Asked { prune, ..Asked::default() }, &mut dice).await?;
            struggle(&cloud, &after, &Asked { prune, ..Asked::default() }, &mut dice).await?;
            let names: BTreeSet<String> = cloud.state().into_keys().collect();
            let wanted: BTreeSet<String> = after.manifest.stacks.iter().map(|entry| entry.name.clone()).collect();
            if prune && names != wanted {
                return Err(format!("{names:?} instead of {wanted:?}"));
            }
            Ok(())
        });
        prop_assert!(outcome.is_ok(), "{}\nfrom {:#?}\nto {:#?}", outcome.unwrap_err(), sketch(from), sketch(to));
    }

    /// No step comes before one that it needs.
    #[test]
    fn no_wave_breaks_a_dependency(from in any::<u64>(), to in any::<u64>()) {
        let (before, after) = (app(&sketch(from)), app(&sketch(to)));
        let cloud = Simulation::default();
        let plan = within(async {
            deploy(&cloud, &before, &Asked::default()).await.unwrap();
            planned(&cloud, &after, &Asked { prune: true, ..Asked::default() }).await
        });
        let waves = |stack: &str| -> Vec<usize> {
            let has = |wave: &Vec<super::Step>| wave.iter().any(|step| step.stack == stack);
            plan.waves.iter().enumerate().filter(|(_, wave)| has(wave)).map(|(index, _)| index).collect()
        };
        for entry in &after.manifest.stacks {
            let own = waves(&entry.id);
            prop_assert!(own.len() == 1 || own.len() == 2, "{} has {own:?}", entry.id);
            let first = plan.steps().find(|step| step.stack == entry.id).unwrap();
            for producer in &entry.depends_on {
                let place = plan.steps().position(|step| step.stack == *producer).unwrap();
                prop_assert!(first.needs.contains(&place), "{} needs {:?}", entry.id, first.needs);
                prop_assert!(waves(producer)[0] < own[0], "{producer} {:?} is no producer of {} {own:?}", waves(producer), entry.id);
            }
        }
        // Who used what goes away has stopped to before.
        for old in &before.manifest.stacks {
            let last = waves(&after.manifest.stack(&old.id).map_or_else(|| old.name.clone(), |entry| entry.id.clone()));
            for producer in &old.depends_on {
                let name = format!("fg-test-{producer}");
                if after.manifest.stack(producer).is_none() {
                    prop_assert!(last.last() < waves(&name).last(), "{} {last:?} before {name} {:?}", old.id, waves(&name));
                }
            }
        }
    }
}

#[test]
fn stacks_that_do_not_depend_on_one_another_go_side_by_side() {
    let resources = ["Aa", "Bb", "Cc", "Dd", "Ee", "Ff"].map(|name| (name.to_owned(), (0, Vec::new())));
    let sketch: Sketch = ["a", "b", "c"].map(|id| (id.to_owned(), resources.clone().into())).into();
    let cloud = Simulation::default();
    within(deploy(&cloud, &app(&sketch), &Asked::default())).unwrap();
    assert_eq!(cloud.side_by_side.get(), 3);
}

#[test]
fn a_stack_begins_when_what_it_needs_is_done_and_not_when_its_wave_does() {
    let things = |count: usize, uses: &[(&str, &str)]| -> BTreeMap<String, (usize, Vec<Use>)> {
        let uses = uses.iter().map(|(stack, name)| ((*stack).to_owned(), (*name).to_owned(), true)).collect();
        let mut things: BTreeMap<String, (usize, Vec<Use>)> =
            (0..count).map(|number| (format!("Aa{number:02}"), (0, Vec::new()))).collect();
        things.insert("Zz".to_owned(), (0, uses));
        things
    };
    let sketch: Sketch = vec![
        ("slow".to_owned(), things(30, &[])),
        ("quick".to_owned(), things(0, &[])),
        ("next".to_owned(), things(0, &[("quick", "Zz")])),
    ];
    for by_wave in [false, true] {
        let cloud = Simulation::default();
        let app = App { by_wave, ..app(&sketch) };
        within(deploy(&cloud, &app, &Asked::default())).unwrap();
        let ended = cloud.ended.borrow();
        let place = |id: &str| ended.iter().position(|name| *name == format!("fg-test-{id}"));
        assert_eq!(place("next") < place("slow"), !by_wave, "{ended:?}");
    }
}

/// a gives x to b; then b stops to use x, and uses y of a instead.
fn turned() -> (App, App) {
    let thing = |uses: &[(&str, &str)]| {
        let uses = uses.iter().map(|(stack, name)| ((*stack).to_owned(), (*name).to_owned(), true)).collect();
        (0, uses)
    };
    let stack = |id: &str, resources: &[(&str, (usize, Vec<Use>))]| {
        let resources = resources.iter().map(|(name, what)| ((*name).to_owned(), what.clone()));
        (id.to_owned(), resources.collect::<BTreeMap<_, _>>())
    };
    let before = vec![stack("a", &[("Xx", thing(&[]))]), stack("b", &[("Own", thing(&[("a", "Xx")]))])];
    let after = vec![stack("a", &[("Yy", thing(&[]))]), stack("b", &[("Own", thing(&[("a", "Yy")]))])];
    (app(&before), app(&after))
}

#[test]
fn a_producer_keeps_what_is_used_until_its_consumer_has_changed() {
    let (before, after) = turned();
    let cloud = Simulation::default();
    within(async {
        deploy(&cloud, &before, &Asked::default()).await.unwrap();
        let plan = planned(&cloud, &after, &Asked::default()).await;
        let told: Vec<(&str, Part)> = plan.steps().map(|step| (step.stack.as_str(), step.part)).collect();
        assert_eq!(told, [("a", Part::First), ("b", Part::Whole), ("a", Part::Last)]);
        insta::assert_snapshot!(render(&plan, "test"));
        // One stack alone keeps what the other uses.
        let alone = Asked { only: vec!["a".to_owned()], prune: false };
        deploy(&cloud, &after, &alone).await.unwrap();
        assert!(cloud.state()["fg-test-a"].1["Resources"].get("Xx").is_some());
        assert!(planned(&cloud, &after, &alone).await.is_done());
        deploy(&cloud, &after, &Asked::default()).await.unwrap();
        assert!(cloud.state()["fg-test-a"].1["Resources"].get("Xx").is_none());
        assert_eq!(*cloud.violations.borrow(), Vec::<String>::new());
    });
}

#[test]
fn a_failure_begins_nothing_new_and_lets_the_others_finish() {
    let sketch: Sketch = ["a", "b", "c", "d", "e"]
        .map(|id| (id.to_owned(), BTreeMap::from([("Zz".to_owned(), (0, Vec::new()))])))
        .into();
    let cloud = Simulation::default();
    *cloud.failures.borrow_mut() = VecDeque::from([true]);
    let error = within(deploy(&cloud, &app(&sketch), &Asked::default())).unwrap_err().to_string();
    assert!(
        error.contains("fg-test-a failed at Zz") && error.contains("the service does not do it"),
        "{error}"
    );
    let state = cloud.state();
    let status = |id: &str| state.get(&format!("fg-test-{id}")).map(|(status, ..)| status.as_str());
    assert_eq!(status("a"), Some("ROLLBACK_COMPLETE"));
    assert_eq!((status("b"), status("c")), (Some("CREATE_COMPLETE"), Some("CREATE_COMPLETE")));
    for id in ["d", "e"] {
        assert_ne!(status(id), Some("CREATE_COMPLETE"));
    }
}

/// A stack as somebody or something has left it, and what it was to be.
async fn left_in(status: &str, cloud: &Simulation, old: &App, new: &App) {
    let name = "fg-test-a";
    let target = |app: &App| Target {
        name: name.to_owned(),
        template: app.templates["a"].clone(),
        template_url: None,
        parameters: BTreeMap::new(),
        tags: app.manifest.stacks[0].tags.clone(),
        capabilities: Vec::new(),
        role_arn: None,
    };
    let fail = |failures: &[bool]| *cloud.failures.borrow_mut() = failures.iter().copied().collect();
    let is_update = status.contains("UPDATE") || status.starts_with("DELETE");
    if is_update {
        deploy(cloud, old, &Asked::default()).await.unwrap();
    }
    if status.starts_with("DELETE") {
        fail(&[true]);
        cloud.delete_stack(name, &[], None).await.unwrap();
    } else {
        cloud.create_change_set(&target(if is_update { new } else { old }), !is_update).await.unwrap();
        if status != "REVIEW_IN_PROGRESS" {
            // The first resource is made, the second is not, and neither does the first go away again.
            fail(match status {
                "CREATE_IN_PROGRESS" | "UPDATE_IN_PROGRESS" => &[],
                failed if failed.ends_with("ROLLBACK_FAILED") => &[false, true, true],
                _ => &[false, true],
            });
            cloud.execute_change_set(name).await.unwrap();
        }
    }
    for _ in 0..10 {
        if cloud.state()[name].0 == status {
            break;
        }
        cloud.pause(0).await;
    }
    fail(&[]);
    assert_eq!(cloud.state()[name].0, status);
}

#[test]
fn from_every_status_a_deployment_ends_with_what_should_be() {
    let stack = |version: usize| -> App {
        let resources = ["Aa", "Bb", "Zz"].map(|name| (name.to_owned(), (version, Vec::new())));
        app(&vec![("a".to_owned(), resources.into())])
    };
    let (old, new) = (stack(0), stack(1));
    for status in [
        "REVIEW_IN_PROGRESS",
        "CREATE_IN_PROGRESS",
        "ROLLBACK_IN_PROGRESS",
        "ROLLBACK_COMPLETE",
        "ROLLBACK_FAILED",
        "UPDATE_IN_PROGRESS",
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
        "UPDATE_ROLLBACK_FAILED",
        "DELETE_IN_PROGRESS",
        "DELETE_FAILED",
    ] {
        let cloud = Simulation::default();
        within(async {
            left_in(status, &cloud, &old, &new).await;
            deploy(&cloud, &new, &Asked::default())
                .await
                .unwrap_or_else(|error| panic!("{status}: {error:#}"));
            is_reached(&cloud, &new, true).unwrap_or_else(|why| panic!("{status}: {why}"));
        });
    }
}

#[test]
fn what_keeps_a_stack_from_being_made_anew_is_named_by_its_construct() {
    let resources = ["Aa", "Bb", "Zz"].map(|name| (name.to_owned(), (0, Vec::new())));
    let mut app = app(&vec![("a".to_owned(), resources.into())]);
    let cloud = Simulation::default();
    let error = within(async {
        left_in("ROLLBACK_FAILED", &cloud, &app, &app).await;
        let rendered = app.templates.get_mut("a").unwrap();
        rendered["Resources"]["Aa"]["Metadata"] = json!({ "floodgate:path": "a/Things/Aa" });
        *cloud.failures.borrow_mut() = VecDeque::from([true]);
        deploy(&cloud, &app, &Asked::default()).await.unwrap_err().to_string()
    });
    assert!(error.contains("failed at a/Things/Aa (Aa, AWS::Test::Thing, DELETE_FAILED)"), "{error}");
}

#[test]
fn the_simulation_refuses_what_aws_refuses() {
    let target = |template: Json, parameters: &[(&str, &str)]| Target {
        name: "s".to_owned(),
        template,
        template_url: None,
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        tags: BTreeMap::new(),
        capabilities: Vec::new(),
        role_arn: None,
    };
    let thing = json!({ "Resources": { "A": { "Type": "AWS::Test::Thing" } } });
    let cloud = Simulation::default();
    within(async {
        for (template, parameters, says) in [
            (
                json!({ "Resources": { "A": { "Type": "T", "Properties": { "X": { "Ref": "B" } } } } }),
                vec![],
                "Unresolved",
            ),
            (json!({ "Resources": { "A": { "Type": "AWS::IAM::Role" } } }), vec![], "CAPABILITY_IAM"),
            (
                json!({ "Parameters": { "P": { "Type": "String" } }, "Resources": {} }),
                vec![],
                "must have values",
            ),
            (thing.clone(), vec![("P", "1")], "do not exist in the template"),
        ] {
            let error = cloud.create_change_set(&target(template, &parameters), true).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let whole = target(thing, &[]);
        assert!(cloud.create_change_set(&whole, false).await.is_err(), "there is no stack to update");
        *cloud.failures.borrow_mut() = VecDeque::from([true]);
        cloud.create_change_set(&whole, true).await.unwrap();
        cloud.execute_change_set("s").await.unwrap();
        assert!(cloud.delete_stack("s", &[], None).await.is_err(), "an operation is under way");
        for _ in 0..5 {
            cloud.pause(0).await;
        }
        let error = cloud.create_change_set(&whole, false).await.unwrap_err().to_string();
        assert!(error.contains("ROLLBACK_COMPLETE state and can not be updated"), "{error}");
        cloud.protect("s", true).await.unwrap();
        assert!(cloud.delete_stack("s", &[], None).await.is_err(), "it is protected");
        cloud.protect("s", false).await.unwrap();
        assert!(
            cloud.delete_stack("s", &["A".to_owned()], None).await.is_err(),
            "nothing failed to be deleted"
        );
    });
}

#[test]
fn blocked_is_told_before_anything_is_touched() {
    let (before, after) = turned();
    let cloud = Simulation::default();
    within(async {
        deploy(&cloud, &before, &Asked::default()).await.unwrap();
        cloud.protect("fg-test-b", true).await.unwrap();
        let mut without = after.clone();
        without.manifest.stacks.retain(|entry| entry.id == "a");
        let kept = planned(&cloud, &without, &Asked::default()).await;
        assert_eq!(kept.left[0].action, Action::Leave);
        assert_eq!(kept.steps().next().unwrap().keeps, ["XxRef"], "what left the manifest still uses it");
        let state = cloud.state();
        let pruning = Asked { prune: true, ..Asked::default() };
        let error = deploy(&cloud, &without, &pruning).await.unwrap_err().to_string();
        assert!(error.contains("protected against deletion"), "{error}");
        assert_eq!(cloud.state(), state);
        let (kept, _) = transition::keep(&json!({}), &json!({}), &["Absent".to_owned()]);
        assert_eq!(kept, json!({}));
    });
}
