use std::{fs, path::PathBuf};

use super::*;
use crate::{programs, tidy, workspace};

/// A copy of the workspace's files below target, so that a second run compiles only what changed.
fn copy() -> PathBuf {
    let root = workspace::root();
    let place = programs::target_directory(&root).join("init-test");
    // What the last run made is gone, what it compiled is not.
    let _ = fs::remove_dir_all(&place);
    let listed = Command::new("git")
        .current_dir(&root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .unwrap();
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        let (from, to) = (root.join(file), place.join(file));
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&from, &to).unwrap();
            let time = fs::metadata(&from).unwrap().modified().unwrap();
            fs::File::options().append(true).open(&to).unwrap().set_modified(time).unwrap();
        }
    }
    let made = Command::new("git").current_dir(&place).args(["init", "--quiet"]).status().unwrap();
    assert!(made.success());
    place
}

/// What makes cargo tell the copy's packages from the workspace's own, which have the same names in the one target directory:
/// another profile, of which it makes part of a file's name. What they depend on stays what it is, and is not compiled again.
fn packages_of_its_own(place: &Path) -> Vec<String> {
    let listed = Command::new(programs::cargo())
        .current_dir(place)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .output()
        .unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let names =
        listed["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap());
    names.map(|name| format!("profile.dev.package.{name}.codegen-units=255")).collect()
}

fn cargo(place: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(programs::cargo());
    command.current_dir(place).env("CARGO_TARGET_DIR", programs::target_directory(&workspace::root()));
    // `cargo fmt` knows no settings, and makes nothing.
    if arguments.first() != Some(&"fmt") {
        for setting in packages_of_its_own(place) {
            command.args(["--config", &setting]);
        }
    }
    let output = command.args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}:\n{text}");
    text
}

/// The parts of the workspace that are registered in, as they were.
fn contents(place: &Path) -> Vec<String> {
    [
        "stacks/platform/src/lib.rs",
        "stacks/platform/src/environment.rs",
        "Cargo.toml",
        "environments/local.toml",
    ]
    .map(|file| fs::read_to_string(place.join(file)).unwrap())
    .to_vec()
}

#[test]
fn a_new_system_and_a_new_stack_build_and_pass_every_check_as_they_come() {
    let place = copy();
    let name = |text: &str| Name::parse(text).unwrap();
    let made = write(&place, system(&place, &name("order-book")).unwrap()).unwrap();
    assert!(made.contains(&("apps/order-book/worker/src/main.rs".to_owned(), Outcome::Made)), "{made:?}");
    write(&place, stack(&place, &name("audit")).unwrap()).unwrap();

    // Run again it changes nothing, and after a failure in between it does the rest.
    let before = contents(&place);
    assert!(write(&place, system(&place, &name("order-book")).unwrap()).unwrap().is_empty());
    fs::remove_file(place.join("apps/order-book/worker/src/main.rs")).unwrap();
    let rest = write(&place, system(&place, &name("order-book")).unwrap()).unwrap();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(contents(&place), before);

    // What is there already is left alone.
    for taken in ["trades", "network", "cluster"] {
        let error = system(&place, &name(taken)).unwrap_err().to_string();
        assert!(error.contains("there already"), "{taken}: {error}");
    }

    // It is in order and formatted, and every environment renders and passes `check`.
    tidy_of(&place);
    cargo(&place, &["fmt", "--all", "--check"]);
    let checked = cargo(
        &place,
        &[
            "test",
            "--package",
            "platform",
            "--test",
            "environments",
            "--",
            "nothing_is_found_that_is_not_waived",
            "rendering_twice",
        ],
    );
    assert!(checked.contains("2 passed"), "{checked}");
    // The worker compiles.
    cargo(&place, &["check", "--offline", "--workspace", "--bin", "order-book-worker"]);
    let local = platform_lists(&place);
    assert!(local.contains("order-book") && local.contains("audit"), "{local}");
}

/// What a place that is gone says, before anything is written.
#[test]
fn a_workspace_that_looks_otherwise_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for file in ["templates/init/stack.rs.hbs", "stacks/platform/src/lib.rs"] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::copy(workspace::root().join(file), root.join(file)).unwrap();
    }
    let lib = root.join("stacks/platform/src/lib.rs");
    let text = fs::read_to_string(&lib).unwrap().replace("delivery::add(", "delivery::put(");
    fs::write(&lib, &text).unwrap();
    let error = stack(root, &Name::parse("audit").unwrap()).unwrap_err().to_string();
    assert!(error.contains("has no place `delivery::add(&mut app,`"), "{error}");
    assert_eq!(fs::read_to_string(&lib).unwrap(), text);
    assert!(!root.join("stacks/platform/src/audit.rs").exists());
}

/// The house rules, as the copy has them: it knows its new crate.
fn tidy_of(place: &Path) {
    let arrows = fs::read_to_string(place.join("xtask/src/tidy.rs")).unwrap();
    assert!(arrows.contains(r#"("order-book-worker", &["worker-contract", "worker-kit"]),"#), "{arrows}");
    // This program's own table does not know it, and says just that.
    let complaints = tidy::check(place).map_err(|error| error.to_string());
    assert_eq!(complaints, Err("order-book-worker: a crate that xtask/src/tidy.rs does not know".to_owned()));
}

/// What is registered in the list of stacks.
fn platform_lists(place: &Path) -> String {
    let lib = fs::read_to_string(place.join("stacks/platform/src/lib.rs")).unwrap();
    let begin = lib.find("pub const STACKS").unwrap();
    lib[begin..].split("];\n").next().unwrap().to_owned()
}
