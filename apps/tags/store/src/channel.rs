//! A channel, and the keys under which its snapshot and its deltas lie.

use std::fmt::Write;

/// Objects that are read together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel {
    /// The application.
    pub app_id: String,
    /// The channel or room in it.
    pub tag: String,
    /// Whose objects: the system's or the application's.
    pub scope: String,
}

impl Channel {
    /// The keys of the snapshot and of the deltas. Both have the same hash tag, so that they lie in one slot of the
    /// cluster and one script may change both.
    #[must_use]
    pub fn keys(&self) -> [String; 2] {
        let name = [&self.app_id, &self.tag, &self.scope].map(|part| escaped(part)).join("/");
        [format!("{{{name}}}:snapshot"), format!("{{{name}}}:deltas")]
    }
}

/// Text in which no brace ends the hash tag and no slash the part: everything but letters, digits, `-`, `_` and `.`
/// as `%` and two hexadecimal digits a byte.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn channel(parts: &[String; 3]) -> Channel {
        let [app_id, tag, scope] = parts.clone();
        Channel { app_id, tag, scope }
    }

    proptest! {
        /// Two channels have the same keys only when they are the same, and both keys one hash tag.
        #[test]
        fn keys_are_of_one_channel_and_one_slot(
            one in proptest::array::uniform3(any::<String>()), other in proptest::array::uniform3(any::<String>()),
        ) {
            let keys = channel(&one).keys();
            prop_assert_eq!(keys == channel(&other).keys(), one == other);
            let tag = |key: &str| {
                let (_, rest) = key.split_once('{').unwrap();
                rest.split_once('}').unwrap().0.to_owned()
            };
            prop_assert!(!tag(&keys[0]).is_empty());
            prop_assert_eq!(tag(&keys[0]), tag(&keys[1]));
        }
    }
}
