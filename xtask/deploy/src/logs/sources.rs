//! Whose logs are meant by a name. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cfn::{
    Json,
    assembly::{Manifest, StackEntry, WorkloadEntry},
};

use crate::hotswap::code_of;

/// A function whose logs are meant.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSource<'a> {
    /// Its stack.
    pub stack: &'a StackEntry,
    /// Its logical id.
    pub logical_id: String,
    /// Its asset, by which it is known here.
    pub asset: String,
}

/// Whose logs are meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources<'a> {
    /// Workloads.
    pub workloads: Vec<&'a WorkloadEntry>,
    /// Functions.
    pub functions: Vec<FunctionSource<'a>>,
}

/// What a name means: a system (its workloads, and the functions of its stacks), a workload or a function.
///
/// # Errors
///
/// What names there are, where this is none.
pub fn sources<'a>(
    manifest: &'a Manifest,
    templates: &BTreeMap<String, Json>,
    name: &str,
) -> Result<Sources<'a>, String> {
    let functions: Vec<FunctionSource<'a>> = manifest
        .stacks
        .iter()
        .flat_map(|stack| {
            let template = templates.get(&stack.id).cloned().unwrap_or_default();
            code_of(stack, &template).into_iter().map(move |code| FunctionSource {
                stack,
                logical_id: code.logical_id,
                asset: code.asset,
            })
        })
        .collect();
    // A system's further stacks have its name before theirs: `ledger-database` is the ledger's.
    let of_system = |stack: &str, name: &str| {
        stack == name || stack.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    let found = Sources {
        workloads: manifest
            .workloads
            .iter()
            .filter(|workload| workload.system == name || workload.name == name)
            .collect(),
        functions: functions
            .iter()
            .filter(|function| function.asset == name || of_system(&function.stack.id, name))
            .cloned()
            .collect(),
    };
    if found != Sources::default() {
        return Ok(found);
    }
    let systems: BTreeSet<&str> = manifest
        .workloads
        .iter()
        .map(|workload| workload.system.as_str())
        .chain(functions.iter().map(|function| function.stack.id.as_str()))
        .collect();
    let parts: BTreeSet<&str> = manifest
        .workloads
        .iter()
        .map(|workload| workload.name.as_str())
        .chain(functions.iter().map(|function| function.asset.as_str()))
        .collect();
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    Err(format!(
        "there is no system, workload or function `{name}` with logs; there are: {}; of them: {}",
        list(systems),
        list(parts)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_system_a_workload_or_a_function() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let environment = platform::Environment::load(&root, "local").unwrap();
        let assembly = platform::render(&environment).unwrap();
        let of = |name: &str| {
            sources(&assembly.manifest, &assembly.templates, name).map(|found| {
                let workloads: Vec<&str> =
                    found.workloads.iter().map(|workload| workload.name.as_str()).collect();
                let functions: BTreeSet<String> =
                    found.functions.into_iter().map(|function| function.asset).collect();
                (workloads, functions.into_iter().collect::<Vec<_>>())
            })
        };
        let (workloads, functions) = of("trades").unwrap();
        assert_eq!((workloads.len(), functions.len()), (2, 0));
        let (workloads, functions) = of("ledger").unwrap();
        assert!(workloads.is_empty() || workloads.iter().all(|name| name.starts_with("ledger")));
        for wanted in ["ledger-writer", "ledger-migrate"] {
            assert!(functions.iter().any(|name| name == wanted), "{wanted}: {functions:?}");
        }
        assert_eq!(of("lessons-enricher").unwrap().1, ["lessons-enricher"]);
        assert_eq!(of("trade-consumer").unwrap().0, ["trade-consumer"]);
        let refused = of("nothing").unwrap_err();
        assert!(refused.contains("`nothing`") && refused.contains("lessons"), "{refused}");
        // A part of a name is none.
        assert!(of("ledg").is_err() && of("").is_err());
    }
}
