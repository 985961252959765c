//! Two JSON values, place by place. Elements of arrays are paired by what they are, not by where they stand,
//! so that a statement put in front does not read as a change of all that follow.

use serde::Serialize;

use crate::{canonical::to_canonical_bytes, intrinsic::is_intrinsic, value::Json};

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
    /// A list has the same elements in another order.
    Reordered,
}

/// A place at which two values differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueChange {
    /// The place as a JSON pointer (RFC 6901). An element's index is that of the new value; one that is gone
    /// has the index that it had.
    pub pointer: String,
    /// What became of it.
    pub change: Change,
    /// What was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Json>,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Json>,
}

impl ValueChange {
    /// From what was and what is there; `None` where neither is or both are the same.
    #[must_use]
    pub fn new(pointer: &str, before: Option<&Json>, after: Option<&Json>) -> Option<Self> {
        let change = match (before, after) {
            (Some(before), Some(after)) if !same(before, after) => Change::Changed,
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            _ => return None,
        };
        Some(Self { pointer: pointer.to_owned(), change, before: before.cloned(), after: after.cloned() })
    }
}

/// Whether two values are written the same, the order of keys apart.
pub(super) fn same(before: &Json, after: &Json) -> bool {
    before == after || to_canonical_bytes(before) == to_canonical_bytes(after)
}

/// A segment of a JSON pointer.
pub(super) fn segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// All places at which two values differ, below `pointer`; none exactly when they are the same.
#[must_use]
pub fn compare(pointer: &str, before: Option<&Json>, after: Option<&Json>) -> Vec<ValueChange> {
    let mut found = Vec::new();
    walk(pointer, before, after, &mut found);
    found
}

fn walk(pointer: &str, before: Option<&Json>, after: Option<&Json>, found: &mut Vec<ValueChange>) {
    match (before, after) {
        // An intrinsic is one value: half of a `Fn::If` says nothing.
        (Some(a @ Json::Object(before)), Some(b @ Json::Object(after)))
            if !is_intrinsic(a) && !is_intrinsic(b) =>
        {
            let mut keys: Vec<&String> =
                before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                walk(&format!("{pointer}/{}", segment(key)), before.get(key), after.get(key), found);
            }
        }
        (Some(Json::Array(before)), Some(Json::Array(after))) => arrays(pointer, before, after, found),
        (before, after) => found.extend(ValueChange::new(pointer, before, after)),
    }
}

fn arrays(pointer: &str, before: &[Json], after: &[Json], found: &mut Vec<ValueChange>) {
    let pairs = pair(before, after);
    let earlier = found.len();
    for (at, item) in after.iter().enumerate() {
        let was = pairs.iter().find(|(_, new)| *new == at).map(|(old, _)| &before[*old]);
        walk(&format!("{pointer}/{at}"), was, Some(item), found);
    }
    for (at, item) in before.iter().enumerate() {
        if !pairs.iter().any(|(old, _)| *old == at) {
            walk(&format!("{pointer}/{at}"), Some(item), None, found);
        }
    }
    // Where nothing else tells that the lists differ, their order does.
    if found.len() == earlier && pairs.iter().any(|(old, new)| old != new) {
        found.push(ValueChange {
            pointer: pointer.to_owned(),
            change: Change::Reordered,
            before: Some(before.to_owned().into()),
            after: Some(after.to_owned().into()),
        });
    }
}

/// Members that tell one element of a list from the others, as CloudFormation's types and policies name them.
const IDENTITIES: [&str; 14] = [
    "Sid",
    "Id",
    "Key",
    "Name",
    "PolicyName",
    "AttributeName",
    "IndexName",
    "ParameterName",
    "ParameterKey",
    "DeviceName",
    "RuleName",
    "LogType",
    "Principal",
    "Field",
];

fn identity(item: &Json) -> Option<(&'static str, &Json)> {
    IDENTITIES.iter().find_map(|key| Some((*key, item.get(key)?)))
}

/// Which element of the old list became which of the new one.
fn pair(before: &[Json], after: &[Json]) -> Vec<(usize, usize)> {
    let mut pairing = Pairing {
        before,
        after,
        old: vec![false; before.len()],
        new: vec![false; after.len()],
        pairs: Vec::new(),
    };
    // The same place first, so that duplicates do not cross.
    pairing.take(|a, b, at_same_place| at_same_place && same(a, b));
    pairing.take(|a, b, _| same(a, b));
    pairing.take(|a, b, _| match (identity(a), identity(b)) {
        (Some((one, x)), Some((other, y))) => one == other && same(x, y),
        _ => false,
    });
    pairing.alike();
    // What is left at one place of lists of texts or numbers is the same thing with another value.
    pairing.take(|a, b, at_same_place| at_same_place && !a.is_object() && !b.is_object());
    pairing.pairs
}

struct Pairing<'a> {
    before: &'a [Json],
    after: &'a [Json],
    old: Vec<bool>,
    new: Vec<bool>,
    pairs: Vec<(usize, usize)>,
}

impl Pairing<'_> {
    fn put(&mut self, old: usize, new: usize) {
        self.old[old] = true;
        self.new[new] = true;
        self.pairs.push((old, new));
    }

    /// Pairs what belongs together; the last argument tells whether both stand at the same index.
    fn take(&mut self, together: impl Fn(&Json, &Json, bool) -> bool) {
        for old in 0..self.before.len() {
            if self.old[old] {
                continue;
            }
            let partner = (0..self.after.len())
                .find(|&new| !self.new[new] && together(&self.before[old], &self.after[new], old == new));
            if let Some(new) = partner {
                self.put(old, new);
            }
        }
    }

    /// Pairs objects that have at least half of their members in common, the most alike first.
    fn alike(&mut self) {
        let mut candidates = Vec::new();
        for (old, a) in self.before.iter().enumerate().filter(|(at, _)| !self.old[*at]) {
            for (new, b) in self.after.iter().enumerate().filter(|(at, _)| !self.new[*at]) {
                let (Some(one), Some(other)) = (a.as_object(), b.as_object()) else { continue };
                // A statement that says who it is, is no other one.
                if let (Some((x_key, x)), Some((y_key, y))) = (identity(a), identity(b))
                    && x_key == y_key
                    && x_key != "Principal"
                    && !same(x, y)
                {
                    continue;
                }
                let common = one
                    .iter()
                    .filter(|(key, value)| other.get(*key).is_some_and(|found| same(found, value)))
                    .count();
                let members = one.len().max(other.len());
                if !is_intrinsic(a) && !is_intrinsic(b) && common > 0 && 2 * common >= members {
                    // In thousandths: whole numbers sort.
                    candidates.push((1000 - common * 1000 / members, old.abs_diff(new), old, new));
                }
            }
        }
        candidates.sort_unstable();
        for (_, _, old, new) in candidates {
            if !self.old[old] && !self.new[new] {
                self.put(old, new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(before: &Json, after: &Json) -> Vec<String> {
        compare("", Some(before), Some(after))
            .into_iter()
            .map(|change| format!("{:?} {}", change.change, change.pointer))
            .collect()
    }

    #[test]
    fn a_statement_put_in_front_is_one_addition() {
        let read = json!({ "Sid": "Read", "Action": ["s3:GetObject"] });
        let wider = json!({ "Sid": "Read", "Action": ["s3:GetObject", "s3:PutObject"] });
        let list = json!({ "Sid": "List", "Action": ["s3:ListBucket"] });
        assert_eq!(told(&json!([read]), &json!([list, read])), ["Added /0"]);
        assert_eq!(told(&json!([read]), &json!([list, wider])), ["Added /0", "Added /1/Action/1"]);
        assert_eq!(told(&json!([list, read]), &json!([read])), ["Removed /0"]);
    }

    #[test]
    fn without_a_name_the_most_alike_are_one() {
        let rule = |cidr: &str, port: u16| json!({ "CidrIp": cidr, "FromPort": port, "ToPort": port, "IpProtocol": "tcp" });
        assert_eq!(
            told(
                &json!([rule("10.0.0.0/16", 80), rule("10.0.0.0/16", 443)]),
                &json!([rule("10.0.0.0/8", 443), rule("10.0.0.0/16", 80)])
            ),
            ["Changed /0/CidrIp"]
        );
    }

    #[test]
    fn texts_are_compared_as_a_set_and_their_order_is_told() {
        assert_eq!(told(&json!(["a", "b"]), &json!(["b", "a"])), ["Reordered "]);
        assert_eq!(told(&json!(["a", "b"]), &json!(["a", "c"])), ["Changed /1"]);
        assert_eq!(told(&json!(["a", "b"]), &json!(["b"])), ["Removed /0"]);
        assert_eq!(told(&json!(["a", "a"]), &json!(["a"])), ["Removed /1"]);
    }

    #[test]
    fn an_intrinsic_is_one_value() {
        let subnet = |name: &str| json!({ "SubnetId": { "Ref": name } });
        assert_eq!(told(&subnet("A"), &subnet("B")), ["Changed /SubnetId"]);
        assert_eq!(told(&json!({ "a/b": { "~": 1 } }), &json!({ "a/b": {} })), ["Removed /a~1b/~0"]);
    }
}
