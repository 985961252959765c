//! Whether a workload runs as it was last told to. Pure; the decisions are those of `kubectl rollout status`.

use serde_json::Value as Json;

use super::job::is_on_demand;

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Done.
    Complete,
    /// Not done yet.
    Waiting {
        /// What for, in words.
        on: String,
    },
    /// It will not be done.
    Failed {
        /// Why.
        why: String,
    },
}

/// Reads a workload's status. Kinds without a rollout are complete when they are there.
#[must_use]
pub fn progress(object: &Json) -> Progress {
    let number = |pointer: &str| object.pointer(pointer).and_then(Json::as_i64);
    let observed = number("/status/observedGeneration").unwrap_or(0);
    let waiting = |on: String| Progress::Waiting { on };
    match object.get("kind").and_then(Json::as_str).unwrap_or_default() {
        "Deployment" => {
            if number("/metadata/generation").unwrap_or(0) > observed {
                return waiting("the change is not seen yet".to_owned());
            }
            if let Some(why) = deadline_exceeded(object) {
                return Progress::Failed { why };
            }
            let wanted = number("/spec/replicas").unwrap_or(1);
            let count = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
            let (updated, all, available) =
                (count("updatedReplicas"), count("replicas"), count("availableReplicas"));
            if updated < wanted {
                waiting(format!("{updated} of {wanted} new pods"))
            } else if all > updated {
                waiting(format!("{} old pods are ending", all - updated))
            } else if available < updated {
                waiting(format!("{available} of {updated} new pods are available"))
            } else {
                Progress::Complete
            }
        }
        "Job" => {
            if let Some(failed) = holds(object, "Failed") {
                let why = failed["message"].as_str();
                Progress::Failed { why: why.unwrap_or("the job has failed").to_owned() }
            } else if holds(object, "Complete").is_some()
                || object.pointer("/spec/suspend") == Some(&Json::Bool(true))
            {
                // One that is suspended does what it was told to: it waits for whoever runs it.
                Progress::Complete
            } else {
                waiting("the job runs".to_owned())
            }
        }
        _ => Progress::Complete,
    }
}

/// Whether an application has a rollout to wait for. A Job that waits for somebody who runs it has none, also while
/// somebody does.
#[must_use]
pub fn has_rollout(manifest: &Json) -> bool {
    match manifest.get("kind").and_then(Json::as_str) {
        Some("Deployment") => true,
        Some("Job") => !is_on_demand(manifest),
        _ => false,
    }
}

/// Whether a Job has ended, well or badly.
#[must_use]
pub fn is_finished(job: &Json) -> bool {
    holds(job, "Complete").is_some() || holds(job, "Failed").is_some()
}

/// The condition of that type, if it is the case.
fn holds<'a>(object: &'a Json, kind: &str) -> Option<&'a Json> {
    condition(object, kind).filter(|found| found["status"] == "True")
}

fn condition<'a>(object: &'a Json, kind: &str) -> Option<&'a Json> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn deadline_exceeded(object: &Json) -> Option<String> {
    let progressing = condition(object, "Progressing")?;
    (progressing["reason"] == "ProgressDeadlineExceeded").then(|| {
        progressing["message"]
            .as_str()
            .unwrap_or("the rollout has made no progress within its deadline")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(generation: i64, status: Json) -> Json {
        json!({ "kind": "Deployment", "metadata": { "generation": generation }, "spec": { "replicas": 3 }, "status": status })
    }

    #[test]
    fn a_deployment_is_complete_when_all_its_pods_are_new_and_available() {
        let done =
            json!({ "observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3 });
        assert_eq!(progress(&deployment(2, done.clone())), Progress::Complete);
        assert!(
            matches!(progress(&deployment(3, done)), Progress::Waiting { .. }),
            "the change is not seen yet"
        );
        for status in [
            json!({ "observedGeneration": 2, "updatedReplicas": 1, "replicas": 4, "availableReplicas": 3 }),
            json!({ "observedGeneration": 2, "updatedReplicas": 3, "replicas": 4, "availableReplicas": 3 }),
            json!({ "observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2 }),
            json!({}),
        ] {
            assert!(matches!(progress(&deployment(2, status.clone())), Progress::Waiting { .. }), "{status}");
        }
    }

    #[test]
    fn a_deployment_scaled_to_nothing_is_complete() {
        let idle = json!({ "kind": "Deployment", "metadata": { "generation": 1 }, "spec": { "replicas": 0 },
            "status": { "observedGeneration": 1 } });
        assert_eq!(progress(&idle), Progress::Complete);
    }

    #[test]
    fn a_rollout_that_is_stuck_says_why() {
        let stuck = json!({ "observedGeneration": 2, "updatedReplicas": 1, "conditions": [
            { "type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "has timed out progressing" }
        ] });
        assert_eq!(
            progress(&deployment(2, stuck)),
            Progress::Failed { why: "has timed out progressing".to_owned() }
        );
    }

    #[test]
    fn a_job_ends_well_or_badly() {
        let job = |kind: &str| json!({ "kind": "Job", "status": { "conditions": [{ "type": kind, "status": "True", "message": "m" }] } });
        assert_eq!(progress(&job("Complete")), Progress::Complete);
        assert_eq!(progress(&job("Failed")), Progress::Failed { why: "m".to_owned() });
        let failed = json!({ "kind": "Job", "status": { "conditions": [
            { "type": "FailureTarget", "status": "True", "message": "first" },
            { "type": "Failed", "status": "True", "message": "a pod has failed" }
        ] } });
        assert_eq!(progress(&failed), Progress::Failed { why: "a pod has failed".to_owned() });
    }

    #[test]
    fn nobody_waits_for_a_job_that_waits_for_somebody() {
        let job = |suspend: bool| json!({ "kind": "Job", "spec": { "suspend": suspend } });
        assert_eq!(progress(&job(true)), Progress::Complete);
        assert!(matches!(progress(&job(false)), Progress::Waiting { .. }));
        assert!(!has_rollout(&job(true)) && has_rollout(&job(false)));
        assert!(has_rollout(&deployment(1, json!({}))) && !has_rollout(&json!({ "kind": "Service" })));
    }
}
