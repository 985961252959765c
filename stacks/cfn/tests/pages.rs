//! The pages of the rules: each there, and each true. Their examples are run against the committed facts.

#![allow(clippy::unwrap_used)]

mod support;

use cfn::{
    Json,
    check::{Finding, Page, RULES, check},
};
use serde_json::json;
use support::{Facts, assembly};

fn pages() -> Vec<Page> {
    RULES.iter().map(|rule| Page::of(rule.code).unwrap()).collect()
}

fn found(facts: &Facts, resources: &str, code: &str) -> Vec<Finding> {
    let resources: Json = serde_json::from_str(resources).unwrap_or_else(|error| panic!("{code}: {error}"));
    check(&assembly(resources, json!({})), &|kind| facts.schema(kind))
}

#[test]
fn every_rule_has_a_page_that_says_why() {
    for page in pages() {
        let code = page.rule.code;
        assert!(page.why.len() > 60, "{code} does not say why");
        assert!(page.why.ends_with('.'), "{code} ends in the middle");
        assert_eq!(
            page.example.is_empty(),
            page.repaired.is_empty(),
            "{code}: an example goes with its repair"
        );
    }
}

#[test]
fn every_example_is_found_and_its_repair_is_not() {
    let facts = Facts::default();
    let mut wrong = Vec::new();
    for page in pages().into_iter().filter(|page| !page.example.is_empty()) {
        let code = page.rule.code;
        let codes = |resources| -> Vec<&str> {
            found(&facts, resources, code).iter().map(|finding| finding.code).collect()
        };
        let (example, repaired) = (codes(page.example), codes(page.repaired));
        if !example.contains(&code) {
            wrong.push(format!("{code} is not found in its example, but {example:?}"));
        }
        if repaired.contains(&code) {
            wrong.push(format!("{code} is found in its own repair"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A repair that is wrong in another way teaches nothing.
#[test]
fn every_repair_is_sound_in_its_properties_and_references() {
    let facts = Facts::default();
    let unsound: Vec<String> = pages()
        .into_iter()
        .filter(|page| !page.example.is_empty())
        .flat_map(|page| {
            found(&facts, page.repaired, page.rule.code).into_iter().map(move |f| (page.rule.code, f))
        })
        .filter(|(_, finding)| finding.code < "FG400")
        .map(|(code, finding)| format!("{code}: {finding}"))
        .collect();
    assert!(unsound.is_empty(), "{}", unsound.join("\n"));
}

#[test]
fn a_page_is_found_in_either_case_and_reads_well() {
    assert_eq!(Page::of("fg436"), Page::of("FG436"));
    assert_eq!(Page::of("FG999"), None);
    insta::assert_snapshot!(Page::of("FG436").unwrap());
}

#[test]
fn the_table_of_rules_is_sorted_and_complete() {
    let codes: Vec<&str> = RULES.iter().map(|rule| rule.code).collect();
    assert!(codes.is_sorted(), "the table is by code");
    let table: Vec<String> = RULES.iter().map(|rule| format!("{} {}", rule.code, rule.finds)).collect();
    insta::assert_snapshot!(table.join("\n"));
}
