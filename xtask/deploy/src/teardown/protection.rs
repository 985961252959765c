//! Resources that refuse to be deleted, whatever their stack says: databases that are kept have a protection of their
//! own. Pure.

use cfn::Json;

use super::kept;

/// The properties by which types are protected.
const PROPERTIES: [&str; 2] = ["DeletionProtection", "DeletionProtectionEnabled"];

/// A template with the protection taken from those resources that go with the stack, with a last snapshot or without,
/// and their logical ids. `None` where nothing that goes is protected.
#[must_use]
pub fn unprotected(template: &Json) -> Option<(Json, Vec<String>)> {
    let mut free = template.clone();
    let mut ids = Vec::new();
    for (id, resource) in free.get_mut("Resources")?.as_object_mut()? {
        if kept::is_retained(template, id) {
            continue;
        }
        for property in PROPERTIES {
            let Some(value) = resource.pointer_mut(&format!("/Properties/{property}")) else { continue };
            if *value == Json::Bool(true) {
                *value = Json::Bool(false);
                ids.push(id.clone());
            }
        }
    }
    (!ids.is_empty()).then_some((free, ids))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_is_no_longer_protected_and_what_stays_is() {
        let resource = |policy: &str, property: &str, value: bool| json!({ "Type": "T", "DeletionPolicy": policy, "Properties": { property: value, "Other": true } });
        let template = |free: bool| {
            json!({ "Resources": {
                "Cluster": resource("Snapshot", "DeletionProtection", !free),
                "Cache": resource("Delete", "DeletionProtectionEnabled", !free),
                "Table": resource("RetainExceptOnCreate", "DeletionProtectionEnabled", true),
                "Open": resource("Delete", "DeletionProtection", false),
                "Given": { "Type": "T", "Properties": { "DeletionProtection": { "Ref": "Protect" } } },
            } })
        };
        let (free, mut ids) = unprotected(&template(false)).unwrap();
        ids.sort();
        assert_eq!(ids, ["Cache", "Cluster"]);
        assert_eq!(free, template(true));
        assert_eq!(unprotected(&free), None);
        assert_eq!(unprotected(&Json::Null), None);
    }
}
