//! Offline checks of a rendered app: what CloudFormation or AWS would refuse later, and what the platform
//! does not allow.
//!
//! A rule has a code; [`RULES`] lists them, and each has a [`Page`]. A finding tells the construct, the Rust
//! source and what to do. A rule is waived on a resource in code, with a reason
//! ([`Scope::waive`](crate::Scope::waive)).
//!
//! A family of rules is a module. It sees a [`Template`]: resources by type, and references followed to their
//! resources, into other stacks as well. What only the deployment knows is never a finding: a rule that is
//! unsure is silent.

mod alarms;
mod cluster;
mod data;
mod database;
mod event_sources;
mod iam;
mod identities;
mod kafka;
mod kafka_properties;
mod lambda;
mod limits;
mod metrics;
mod names;
mod network;
mod page;
mod permissions;
mod policy_grammar;
mod properties;
mod references;
mod rules;
mod secrets;
mod tags;
mod targets;
mod template;

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

pub use page::{Page, nearest_code};
pub use rules::{RULES, Rule, Subject};
use template::{Template, Wiring};

use crate::{assembly::Assembly, schema::TypeSchema, stack::Provenance};

/// The day that the tables of versions were last looked through, `YYYY-MM-DD`. What ended before it is past
/// its end of support. A constant, because a check must give the same findings today and tomorrow.
pub const REVIEWED: &str = "2026-11-21";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is not deployed.
    Error,
    /// It is worth a look.
    Warning,
}

/// Something that a rule found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The stack's id.
    pub stack: String,
    /// The construct's path, or the stack's id.
    pub path: String,
    /// The Rust source, `file:line`, where a construct is to blame.
    pub source: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
    /// Why it is waived, if it is.
    pub waived: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(formatter, "{severity}[{}] {}: {}", self.code, self.path, self.message)?;
        if let Some(source) = &self.source {
            write!(formatter, "\n    at {source}")?;
        }
        write!(formatter, "\n    {}", self.remedy)
    }
}

/// Collects findings of a stack.
pub(crate) struct Findings<'a> {
    stack: &'a str,
    provenance: BTreeMap<&'a str, &'a Provenance>,
    found: Vec<Finding>,
}

impl Findings<'_> {
    pub(crate) fn stack(&mut self, rule: Rule, message: String) {
        self.found.push(Finding {
            code: rule.code,
            severity: rule.severity,
            stack: self.stack.to_owned(),
            path: self.stack.to_owned(),
            source: None,
            message,
            remedy: rule.remedy,
            waived: None,
        });
    }

    pub(crate) fn resource(&mut self, rule: Rule, logical_id: &str, message: String) {
        let provenance = self.provenance.get(logical_id);
        let waiver = provenance
            .and_then(|provenance| provenance.waivers.iter().find(|waiver| waiver.code == rule.code));
        self.found.push(Finding {
            code: rule.code,
            severity: rule.severity,
            stack: self.stack.to_owned(),
            path: provenance
                .map_or_else(|| format!("{}/{logical_id}", self.stack), |found| found.path.clone()),
            source: provenance.map(|provenance| provenance.source.clone()),
            message,
            remedy: rule.remedy,
            waived: waiver.map(|waiver| waiver.reason.clone()),
        });
    }
}

impl Findings<'_> {
    /// Waivers that excuse nothing: what they were for was repaired, or their code is none.
    fn stale_waivers(&mut self) {
        let mut stale = Vec::new();
        for provenance in self.provenance.values() {
            // Those of another linter are its own to judge.
            for waiver in provenance.waivers.iter().filter(|waiver| !waiver.code.starts_with("CKV")) {
                // Findings of the resource, by the only thing that they keep of it.
                let used = self
                    .found
                    .iter()
                    .any(|finding| finding.code == waiver.code && finding.path == provenance.path);
                if !used {
                    stale.push((provenance.logical_id.clone(), waiver.code.clone()));
                }
            }
        }
        for (logical_id, code) in stale {
            self.resource(rules::STALE_WAIVER, &logical_id, format!("{code} is waived and not found"));
        }
    }
}

/// Checks a rendered app. `schema` gives the facts of a resource type.
#[must_use]
pub fn check(assembly: &Assembly, schema: &dyn Fn(&str) -> Option<TypeSchema>) -> Vec<Finding> {
    let mut known: BTreeMap<String, Option<TypeSchema>> = BTreeMap::new();
    let mut patterns = properties::Patterns::default();
    let mut provenance: BTreeMap<&str, BTreeMap<&str, &Provenance>> = BTreeMap::new();
    for entry in &assembly.provenance {
        provenance.entry(&entry.stack).or_default().insert(&entry.logical_id, entry);
    }
    let wiring = Wiring::new(assembly);
    let mut names_taken = identities::Taken::default();
    let mut found = Vec::new();
    for entry in &assembly.manifest.stacks {
        let Some(body) = assembly.template(&entry.id) else { continue };
        let template = Template::new(entry, body, &wiring);
        let provenance = provenance.remove(entry.id.as_str()).unwrap_or_default();
        let mut findings = Findings { stack: &entry.id, provenance, found: Vec::new() };
        for resource in &template.resources {
            if !known.contains_key(resource.kind) {
                known.insert(resource.kind.to_owned(), schema(resource.kind));
            }
            match known.get(resource.kind).and_then(Option::as_ref) {
                Some(schema) => {
                    properties::check(resource, schema, &mut patterns, &mut findings);
                    let region = &assembly.manifest.region;
                    if !schema.is_in_region(region) {
                        findings.resource(
                            rules::REGION,
                            resource.logical_id,
                            format!("{region} does not have {}", resource.kind),
                        );
                    }
                }
                None => findings.resource(
                    rules::UNKNOWN_TYPE,
                    resource.logical_id,
                    format!("{} has no schema here", resource.kind),
                ),
            }
        }
        limits::check(entry, &template, &mut findings);
        references::check(&template, &known, &mut findings);
        let families: [fn(&Template<'_>, &mut Findings<'_>); 14] = [
            iam::check,
            policy_grammar::check,
            tags::check,
            kafka::check,
            kafka_properties::check,
            alarms::check,
            lambda::check,
            event_sources::check,
            database::check,
            data::check,
            network::check,
            cluster::check,
            secrets::check,
            targets::check,
        ];
        for family in families {
            family(&template, &mut findings);
        }
        names_taken.check(&template, &known, &mut findings);
        findings.stale_waivers();
        found.append(&mut findings.found);
    }
    found
}
