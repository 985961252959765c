//! Customer-managed keys.

use cfn::{Handle, Scope, Value};
use cfn_resources::kms::{Alias, Key};
use serde_json::{Value as Json, json};

use crate::{DataPolicy, iam};

/// A key that rotates, with an alias. The account's administrators manage it; services use it through the
/// grants that they are given, for the resources of this account alone.
#[track_caller]
pub fn key(
    scope: &mut Scope<'_>,
    name: &str,
    alias: &str,
    description: &str,
    statements: &[Json],
    data: DataPolicy,
) -> Handle<Key> {
    let mut scope = scope.child(name);
    let account = Value::sub("arn:${AWS::Partition}:iam::${AWS::AccountId}:root", []);
    // Without this statement nobody could change the key's policy again.
    let mut all = vec![json!({
        "Sid": "AccountAdministersKey", "Effect": "Allow", "Principal": { "AWS": cfn::Property::to_json(&account) },
        "Action": "kms:*", "Resource": "*"
    })];
    all.extend_from_slice(statements);
    let key = scope.add(
        "Resource",
        Key::new().description(description).enable_key_rotation(true).key_policy(iam::document(all)),
    );
    scope.waive(
        key.raw(),
        "FG401",
        "the statement by which the account administers its own key; AWS wants it in every key's policy",
    );
    scope.removal(key.raw(), data.removal());
    scope.add("Alias", Alias::new(format!("alias/{alias}"), key.key_id()));
    key
}
