//! Offline checks of a rendered app: what CloudFormation or AWS would refuse later, and what the platform
//! does not allow.
//!
//! A rule has a code; [`RULES`] lists them. A finding tells the construct, the Rust source and what to do. A
//! rule is waived on a resource in code, with a reason ([`Scope::waive`](crate::Scope::waive)).

mod policies;
mod properties;
mod structure;

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{assembly::Assembly, schema::TypeSchema, stack::Provenance, value::Json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is not deployed.
    Error,
    /// It is worth a look.
    Warning,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its code.
    pub code: &'static str,
    /// How bad a finding is.
    pub severity: Severity,
    /// What it finds.
    pub finds: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

macro_rules! rules {
    ($($name:ident $code:literal $severity:ident $finds:literal => $remedy:literal;)*) => {
        $(pub(crate) const $name: Rule =
            Rule { code: $code, severity: Severity::$severity, finds: $finds, remedy: $remedy };)*

        /// All rules.
        pub const RULES: &[Rule] = &[$($name),*];
    };
}

rules! {
    UNKNOWN_TYPE "FG100" Warning "a resource type without a schema" => "turn on the service's feature of cfn-resources, so that the type can be checked";
    UNKNOWN_PROPERTY "FG101" Error "a property that the type does not have" => "remove it or correct its name";
    MISSING_PROPERTY "FG102" Error "a required property that is missing" => "set it";
    WRONG_TYPE "FG103" Error "a value of the wrong type" => "give a value of the type that the schema wants";
    PATTERN "FG104" Error "a text that does not match its pattern" => "correct the text";
    LENGTH "FG105" Error "a text or list that is too short or too long" => "keep to the bounds";
    RANGE "FG106" Error "a number out of its bounds" => "keep to the bounds";
    ENUMERATION "FG107" Error "a value that is none of those listed" => "take one that is listed";
    READ_ONLY "FG108" Error "a property that only the service sets" => "remove it; read it as an attribute";
    COMBINATION "FG109" Error "properties that exclude or require one another" => "set those that go together";
    RESOURCE_LIMIT "FG201" Error "more than 500 resources in a stack" => "split the stack";
    RESOURCE_LIMIT_NEAR "FG202" Warning "more than 400 of 500 resources in a stack" => "plan to split the stack";
    NAME_LIMIT "FG203" Error "more than 200 outputs or parameters in a stack" => "split the stack";
    BODY_LIMIT "FG204" Error "a template of more than 51,200 bytes" => "split the stack";
    DESCRIPTION_LIMIT "FG205" Error "a description of more than 1,024 bytes" => "shorten it";
    UNRESOLVED "FG301" Error "a reference to something that the template does not have" => "refer to a handle of the stack";
    CIRCULAR "FG302" Error "resources that wait for each other" => "take one of the references apart into a resource of its own";
    NO_ATTRIBUTE "FG303" Error "an attribute that the type does not have" => "use one that it has";
    WILDCARD_ACTION "FG401" Error "a policy that allows every action of a service" => "name the actions";
    WILDCARD_RESOURCE "FG402" Error "a policy that allows its actions on every resource" => "name the resources";
    KAFKA_COMPANION "FG403" Error "an MSK action without the actions that it needs, or on the wrong kind of resource" => "use the grants of KafkaTopic";
    POD_TRUST "FG404" Error "a role for pods without sts:TagSession" => "trust pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession";
    LOG_RETENTION "FG405" Error "a log group that keeps its events for ever" => "set RetentionInDays";
    KAFKA_TRANSIT "FG406" Error "a Kafka cluster that takes connections without TLS or without authentication" => "set ClientBroker to TLS, InCluster to true, and allow no unauthenticated client";
    KAFKA_AT_REST "FG407" Error "a Kafka cluster without a key of its own" => "set EncryptionAtRest";
    KAFKA_BROKERS "FG408" Error "a number of brokers that is no multiple of the subnets" => "take a multiple";
    KAFKA_REPLICAS "FG409" Error "more replicas in sync than there are replicas" => "lower min.insync.replicas or raise the replication factor";
    AUTO_MODE "FG410" Error "EKS Auto Mode switched on in part" => "switch compute, load balancing and block storage together, and self-managed add-ons off";
    OPEN_INGRESS "FG411" Error "a security group open to every address" => "name the blocks or groups that need it";
    DATA_DELETION "FG412" Error "kept data that would go with its stack" => "retain or snapshot it, or make the environment's data disposable";
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

/// A resource of a template.
pub(crate) struct Resource<'a> {
    pub(crate) logical_id: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) json: &'a Json,
}

impl Resource<'_> {
    pub(crate) fn properties(&self) -> &Json {
        self.json.get("Properties").unwrap_or(&Json::Null)
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

/// Checks a rendered app. `schema` gives the facts of a resource type.
#[must_use]
pub fn check(assembly: &Assembly, schema: &dyn Fn(&str) -> Option<TypeSchema>) -> Vec<Finding> {
    let mut known: BTreeMap<String, Option<TypeSchema>> = BTreeMap::new();
    let mut patterns = properties::Patterns::default();
    let mut found = Vec::new();
    for entry in &assembly.manifest.stacks {
        let Some(template) = assembly.template(&entry.id) else { continue };
        let provenance = assembly
            .provenance
            .iter()
            .filter(|provenance| provenance.stack == entry.id)
            .map(|provenance| (provenance.logical_id.as_str(), provenance))
            .collect();
        let mut findings = Findings { stack: &entry.id, provenance, found: Vec::new() };
        let resources: Vec<Resource<'_>> = template
            .get("Resources")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(id, json)| Resource {
                logical_id: id,
                kind: json.get("Type").and_then(Json::as_str).unwrap_or_default(),
                json,
            })
            .collect();
        for resource in &resources {
            let schema = known.entry(resource.kind.to_owned()).or_insert_with(|| schema(resource.kind));
            match schema {
                Some(schema) => properties::check(resource, schema, &mut patterns, &mut findings),
                None => findings.resource(
                    UNKNOWN_TYPE,
                    resource.logical_id,
                    format!("{} has no schema here", resource.kind),
                ),
            }
        }
        structure::check(template, &resources, &known, &mut findings);
        policies::check(&resources, entry.termination_protection, &mut findings);
        found.append(&mut findings.found);
    }
    found
}

/// Whether a value is known to CloudFormation alone.
pub(crate) fn is_intrinsic(json: &Json) -> bool {
    json.as_object().is_some_and(|object| {
        object.len() == 1
            && object.keys().all(|key| key == "Ref" || key == "Condition" || key.starts_with("Fn::"))
    })
}
