//! Whether a workload runs as it was last told to. Pure; the decisions are those of `kubectl rollout status`.

use serde_json::Value as Json;

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
            let condition =
                |kind: &str| condition(object, kind).is_some_and(|found| found["status"] == "True");
            if condition("Failed") {
                let why = object.pointer("/status/conditions/0/message").and_then(Json::as_str);
                Progress::Failed { why: why.unwrap_or("the job has failed").to_owned() }
            } else if condition("Complete") {
                Progress::Complete
            } else {
                waiting("the job runs".to_owned())
            }
        }
        _ => Progress::Complete,
    }
}

/// Whether a kind has a rollout to wait for.
#[must_use]
pub fn has_rollout(kind: &str) -> bool {
    matches!(kind, "Deployment" | "Job")
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
    }
}
