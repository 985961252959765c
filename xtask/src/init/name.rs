//! Names of systems and stacks.

use anyhow::{Result, bail};

/// The longest: stacks' names hold it, and functions' names the stack's, of which Lambda takes 64 letters.
const LETTERS_MAX: usize = 20;

/// What Rust has for itself, or this workspace for something else, and would be a module's name.
const RESERVED: [&str; 40] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "final", "fn", "for", "gen", "if", "impl", "in", "lib", "let", "loop", "macro",
    "main", "match", "mod", "move", "override", "pub", "ref", "return", "self", "static", "struct", "super",
    "test", "trait",
];

/// More of them.
const RESERVED_TOO: [&str; 14] = [
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    "app",
    "base",
    "id",
    "environment",
];

/// A name in all its spellings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// As stacks, crates and environments have it: `order-book`.
    pub(super) id: String,
    /// As modules: `order_book`.
    pub(super) module: String,
    /// As a variant: `OrderBook`.
    pub(super) variant: String,
    /// As people: `Order book`.
    pub(super) title: String,
}

impl Name {
    /// Reads a name.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split('-').collect();
        let allowed = |word: &&str| {
            word.starts_with(|first: char| first.is_ascii_lowercase())
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !(2..=LETTERS_MAX).contains(&text.len()) || !words.iter().all(allowed) {
            bail!(
                "`{text}` is no name: it has 2 to {LETTERS_MAX} lower-case letters, digits and single hyphens, and each word begins with a letter, such as `order-book`"
            );
        }
        let module = words.join("_");
        if RESERVED.contains(&module.as_str()) || RESERVED_TOO.contains(&module.as_str()) {
            bail!("`{text}` cannot be a module's name in Rust; choose another one");
        }
        let capital = |word: &str| {
            let (first, rest) = word.split_at(1);
            first.to_ascii_uppercase() + rest
        };
        let variant = words.iter().map(|word| capital(word)).collect();
        Ok(Self { id: text.to_owned(), module, variant, title: capital(&words.join(" ")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_spellings() {
        let name = Name::parse("order-book2").unwrap();
        assert_eq!((name.module.as_str(), name.variant.as_str()), ("order_book2", "OrderBook2"));
        assert_eq!(name.title, "Order book2");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for wrong in
            ["", "a", "Orders", "orders_x", "2nd", "a--b", "-a", "a-", "a/b", "../x", "é1", "a-2", "x y"]
        {
            assert!(Name::parse(wrong).unwrap_err().to_string().contains("is no name"), "{wrong}");
        }
        assert!(Name::parse(&"a".repeat(21)).is_err());
        for keyword in ["match", "type", "test", "lib"] {
            assert!(Name::parse(keyword).unwrap_err().to_string().contains("module's name"), "{keyword}");
        }
    }
}
