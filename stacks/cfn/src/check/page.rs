//! The page of a rule: why it is there, an example that it finds, and the example repaired.

use std::fmt;

use super::{RULES, Rule, Severity, Subject, names::nearest};

/// The page of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The rule.
    pub rule: Rule,
    /// Why it matters, with the fact of AWS's behind it.
    pub why: &'static str,
    /// The resources of a template that it finds, as JSON. Empty where they would be too many to show.
    pub example: &'static str,
    /// The same, repaired. Empty where there is no example.
    pub repaired: &'static str,
}

impl Page {
    /// The page of a rule. Upper or lower case does not matter.
    #[must_use]
    pub fn of(code: &str) -> Option<Self> {
        let rule = RULES.iter().find(|rule| rule.code.eq_ignore_ascii_case(code))?;
        Some(Self::new(*rule))
    }

    fn new(rule: Rule) -> Self {
        let (why, rest) = rule.text.split_once("## Found\n").unwrap_or((rule.text, ""));
        let (example, repaired) = rest.split_once("## Repaired\n").unwrap_or((rest, ""));
        let code =
            |text: &'static str| text.trim().trim_start_matches("```json").trim_end_matches("```").trim();
        Self { rule, why: why.trim(), example: code(example), repaired: code(repaired) }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { code, finds, remedy, .. } = self.rule;
        let severity = match self.rule.severity {
            Severity::Error => "error: it is not deployed",
            Severity::Warning => "warning: it is deployed",
        };
        writeln!(formatter, "{code}  {finds}\n({severity})\n\n{}\n", self.why)?;
        if !self.example.is_empty() {
            writeln!(formatter, "Found in\n\n{}\n", indented(self.example))?;
        }
        writeln!(formatter, "Repair: {remedy}.")?;
        if !self.repaired.is_empty() {
            writeln!(formatter, "\n{}", indented(self.repaired))?;
        }
        match self.rule.subject {
            Subject::Resource => write!(
                formatter,
                "\nWhere it is right as it is, waive the rule on that resource, with the reason:\n\n    \
                 scope.waive(handle.raw(), \"{code}\", \"why it is right here\");"
            ),
            Subject::Stack => {
                write!(formatter, "\nThe rule is about the stack as a whole and cannot be waived.")
            }
        }
    }
}

/// The code that is most like another text, if one is like enough to be meant.
#[must_use]
pub fn nearest_code(code: &str) -> Option<&'static str> {
    nearest(code, RULES.iter().map(|rule| rule.code))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
