//! Where code is not swapped: said before anything is built. The deploy engine decides by the same rule.

use anyhow::{Result, bail};
use cfn::assembly::Manifest;

/// Refuses prod, and every environment whose data is kept.
pub(crate) fn refuse(manifest: &Manifest) -> Result<()> {
    let environment = &manifest.environment;
    let kept = manifest.stacks.iter().any(|stack| stack.termination_protection);
    if environment == "prod" || kept {
        bail!(
            "code is not swapped in {environment}: its data is kept, so what runs there is to be what its stacks say. Deploy: `cargo xtask deploy --env {environment}`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_swapped_where_data_is_disposable_alone() {
        let root = crate::workspace::root();
        for (name, refused) in [("local", false), ("dev", false), ("staging", true), ("prod", true)] {
            let environment = platform::Environment::load(&root, name).unwrap();
            let assembly = platform::render(&environment).unwrap();
            assert_eq!(refuse(&assembly.manifest).is_err(), refused, "{name}");
        }
    }
}
