//! What is to be done with a stack, from what is there. Pure.

/// What CloudFormation says of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its status, such as `CREATE_COMPLETE`.
    pub status: String,
    /// Whether its template is the one to be deployed.
    pub same_template: bool,
    /// Whether its parameters are those to be deployed.
    pub same_parameters: bool,
    /// Whether its tags are those to be deployed.
    pub same_tags: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is no stack: create it.
    Create,
    /// The stack is other than it should be: update it.
    Update,
    /// The stack is as it should be.
    Nothing,
    /// The stack takes no update, only a deletion: delete and create it.
    Recreate,
    /// Somebody's operation is under way: wait, then look again.
    Wait,
    /// Only a person can go on.
    Blocked {
        /// What to do.
        way_out: String,
    },
}

/// Decides.
#[must_use]
pub fn decide(name: &str, observed: Option<&Observed>) -> Action {
    let Some(observed) = observed else { return Action::Create };
    match observed.status.as_str() {
        "DELETE_COMPLETE" => Action::Create,
        // A stack that failed to be created, or has only a change set, takes no update.
        "REVIEW_IN_PROGRESS" | "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED"
        | "DELETE_FAILED" => Action::Recreate,
        status if status.ends_with("_IN_PROGRESS") => Action::Wait,
        "UPDATE_ROLLBACK_FAILED" | "IMPORT_ROLLBACK_FAILED" => Action::Blocked {
            way_out: format!(
                "the stack {name} is {}: an update failed and so did going back. See its events for the resource that cannot go back, repair that, then run `aws cloudformation continue-update-rollback --stack-name {name}` and deploy again",
                observed.status
            ),
        },
        // What failed half-way is not as it should be, whatever its template says.
        "UPDATE_FAILED" => Action::Update,
        _ if observed.same_template && observed.same_parameters && observed.same_tags => Action::Nothing,
        _ => Action::Update,
    }
}

/// Why, in words.
#[must_use]
pub fn reason(observed: Option<&Observed>) -> String {
    match observed {
        None => "it is not there".to_owned(),
        Some(observed) => match (observed.same_template, observed.same_parameters) {
            _ if !observed.status.ends_with("_COMPLETE") || observed.status.starts_with("ROLLBACK") => {
                format!("it is {}", observed.status)
            }
            (true, true) if !observed.same_tags => "its tags have changed".to_owned(),
            (true, true) => "it is as it should be".to_owned(),
            (false, true) => "its template has changed".to_owned(),
            (true, false) => "its parameters have changed".to_owned(),
            (false, false) => "its template and parameters have changed".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(status: &str, same: bool) -> Observed {
        Observed { status: status.to_owned(), same_template: same, same_parameters: same, same_tags: same }
    }

    /// Every status that CloudFormation documents.
    const STATUSES: [&str; 23] = [
        "CREATE_IN_PROGRESS",
        "CREATE_FAILED",
        "CREATE_COMPLETE",
        "ROLLBACK_IN_PROGRESS",
        "ROLLBACK_FAILED",
        "ROLLBACK_COMPLETE",
        "DELETE_IN_PROGRESS",
        "DELETE_FAILED",
        "DELETE_COMPLETE",
        "UPDATE_IN_PROGRESS",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_COMPLETE",
        "UPDATE_FAILED",
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "UPDATE_ROLLBACK_FAILED",
        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
        "REVIEW_IN_PROGRESS",
        "IMPORT_IN_PROGRESS",
        "IMPORT_COMPLETE",
        "IMPORT_ROLLBACK_IN_PROGRESS",
        "IMPORT_ROLLBACK_FAILED",
        "IMPORT_ROLLBACK_COMPLETE",
    ];

    #[test]
    fn a_stack_as_it_should_be_is_left_alone() {
        assert_eq!(decide("s", Some(&observed("CREATE_COMPLETE", true))), Action::Nothing);
        assert_eq!(decide("s", Some(&observed("UPDATE_ROLLBACK_COMPLETE", false))), Action::Update);
        assert_eq!(decide("s", None), Action::Create);
        let retagged = Observed { same_tags: false, ..observed("UPDATE_COMPLETE", true) };
        assert_eq!(decide("s", Some(&retagged)), Action::Update);
        assert_eq!(reason(Some(&retagged)), "its tags have changed");
        assert_eq!(decide("s", Some(&observed("UPDATE_FAILED", true))), Action::Update);
    }

    #[test]
    fn a_stack_that_never_came_to_be_is_made_anew() {
        for status in
            ["ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS", "CREATE_FAILED", "ROLLBACK_FAILED", "DELETE_FAILED"]
        {
            assert_eq!(decide("s", Some(&observed(status, true))), Action::Recreate, "{status}");
        }
    }

    #[test]
    fn a_stack_that_cannot_go_back_tells_the_way_out() {
        let Action::Blocked { way_out } =
            decide("fg-dev-kafka", Some(&observed("UPDATE_ROLLBACK_FAILED", false)))
        else {
            panic!("not blocked")
        };
        assert!(way_out.contains("continue-update-rollback --stack-name fg-dev-kafka"), "{way_out}");
    }

    proptest! {
        /// Nothing that is under way is touched, and nothing whole is deleted.
        #[test]
        fn no_status_leads_to_harm(status in proptest::sample::select(STATUSES.to_vec()), same in any::<bool>()) {
            let action = decide("s", Some(&observed(status, same)));
            if status.ends_with("_IN_PROGRESS") && status != "REVIEW_IN_PROGRESS" {
                prop_assert_eq!(&action, &Action::Wait);
            }
            if matches!(status, "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_ROLLBACK_COMPLETE" | "IMPORT_COMPLETE") {
                prop_assert_eq!(&action, if same { &Action::Nothing } else { &Action::Update });
            }
        }
    }
}
