//! What becomes of a Job when it is deployed. Pure.
//!
//! A Job that is rendered suspended waits for somebody who runs it, by `kubectl patch` of `spec.suspend`, perhaps with more
//! pods. A deploy leaves such a run alone, and makes a Job ready again that has run.

use serde_json::{Value as Json, json};

use super::rollout::is_finished;

/// What whoever runs a Job sets of it.
const SET_BY_HAND: [&str; 3] = ["suspend", "parallelism", "completions"];

/// What to do with a Job.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Apply this.
    Apply(Json),
    /// Delete the Job and apply its manifest: it has run, and runs but once.
    Replace,
}

/// Whether it is a Job that waits for somebody who runs it.
#[must_use]
pub fn is_on_demand(manifest: &Json) -> bool {
    manifest["kind"] == "Job" && manifest.pointer("/spec/suspend") == Some(&json!(true))
}

/// What to do, where there is such an object already.
#[must_use]
pub fn step(manifest: &Json, before: &Json) -> Step {
    if !is_on_demand(manifest) {
        return Step::Apply(manifest.clone());
    }
    if is_finished(before) {
        return Step::Replace;
    }
    let mut wanted = manifest.clone();
    if before.pointer("/spec/suspend") != Some(&json!(true))
        && let Some(spec) = wanted.get_mut("spec").and_then(Json::as_object_mut)
    {
        for field in SET_BY_HAND {
            if let Some(now) = before.pointer(&format!("/spec/{field}")) {
                spec.insert(field.to_owned(), now.clone());
            }
        }
    }
    Step::Apply(wanted)
}

/// Whether a refusal says that a Job's pods cannot be changed: what a Job runs is settled when it is made.
#[must_use]
pub fn is_immutable(code: u16, message: &str) -> bool {
    code == 422 && message.contains("field is immutable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(suspend: bool, pods: u32, image: &str) -> Json {
        json!({ "kind": "Job", "spec": { "suspend": suspend, "parallelism": pods, "completions": pods,
            "template": { "image": image } } })
    }

    fn with_status(mut job: Json, condition: &str) -> Json {
        job["status"] = json!({ "conditions": [{ "type": condition, "status": "True" }] });
        job
    }

    #[test]
    fn a_job_that_waits_is_applied_and_one_that_runs_goes_on() {
        let manifest = job(true, 1, "new");
        let apply = |manifest: &Json| Step::Apply(manifest.clone());
        assert_eq!(
            step(&manifest, &job(true, 4, "old")),
            apply(&manifest),
            "who has not run it has set nothing"
        );
        assert_eq!(
            step(&manifest, &job(false, 4, "old")),
            apply(&job(false, 4, "new")),
            "the cluster says whether that can be"
        );
        assert_eq!(step(&manifest, &with_status(job(true, 1, "old"), "Suspended")), apply(&manifest));
        let unset = json!({ "kind": "Job", "spec": { "template": { "image": "old" } } });
        assert_eq!(step(&manifest, &unset), apply(&manifest), "nothing is taken over that is not there");
    }

    #[test]
    fn a_job_that_has_run_is_made_anew_if_it_is_to_be_run_again() {
        for condition in ["Complete", "Failed"] {
            let before = with_status(job(false, 1, "old"), condition);
            assert_eq!(step(&job(true, 1, "old"), &before), Step::Replace);
            let once = job(false, 1, "old");
            assert_eq!(step(&once, &before), Step::Apply(once.clone()), "a deploy does not run it again");
        }
    }

    #[test]
    fn only_what_cannot_be_changed_asks_for_a_new_job() {
        let message = "Job.batch \"x\" is invalid: spec.template: Invalid value: {}: field is immutable";
        assert!(is_immutable(422, message));
        assert!(!is_immutable(403, message));
        assert!(!is_immutable(422, "spec.template.spec.containers: Required value"));
    }
}
