//! What can be done with a stack in a status.

/// What a status lets one do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Footing {
    /// There is no stack.
    Absent,
    /// The stack is whole and takes updates.
    Whole,
    /// The stack takes updates and is not as its template says, whatever that is.
    Halfway,
    /// The stack never came to be, or is half gone: it takes no update, only a deletion.
    Stillborn,
    /// A rollback failed and can be taken up again.
    Stuck,
    /// Somebody's operation is under way.
    Busy,
    /// Only a person can go on.
    Lost,
}

/// Every status that CloudFormation documents has one.
#[must_use]
pub fn footing(status: Option<&str>) -> Footing {
    match status {
        None | Some("DELETE_COMPLETE") => Footing::Absent,
        Some(
            "REVIEW_IN_PROGRESS" | "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED"
            | "DELETE_FAILED",
        ) => Footing::Stillborn,
        Some(status) if status.ends_with("_IN_PROGRESS") => Footing::Busy,
        Some("UPDATE_ROLLBACK_FAILED") => Footing::Stuck,
        Some("UPDATE_FAILED") => Footing::Halfway,
        Some(status) if status.ends_with("_COMPLETE") => Footing::Whole,
        // IMPORT_ROLLBACK_FAILED, and what CloudFormation may come to have.
        Some(_) => Footing::Lost,
    }
}

/// Whether a stack is one that a deployment would go on from; what was never whole is made anew.
#[must_use]
pub fn has_come_to_be(status: &str) -> bool {
    !matches!(footing(Some(status)), Footing::Absent | Footing::Stillborn)
}

/// Whether a stack may have resources, which use what it was given. One that failed to be deleted has.
#[must_use]
pub fn may_hold_resources(status: &str) -> bool {
    !matches!(status, "REVIEW_IN_PROGRESS" | "ROLLBACK_COMPLETE" | "DELETE_COMPLETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every status that CloudFormation documents.
    const STATUSES: [(&str, Footing); 23] = [
        ("CREATE_IN_PROGRESS", Footing::Busy),
        ("CREATE_FAILED", Footing::Stillborn),
        ("CREATE_COMPLETE", Footing::Whole),
        ("ROLLBACK_IN_PROGRESS", Footing::Busy),
        ("ROLLBACK_FAILED", Footing::Stillborn),
        ("ROLLBACK_COMPLETE", Footing::Stillborn),
        ("DELETE_IN_PROGRESS", Footing::Busy),
        ("DELETE_FAILED", Footing::Stillborn),
        ("DELETE_COMPLETE", Footing::Absent),
        ("UPDATE_IN_PROGRESS", Footing::Busy),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", Footing::Busy),
        ("UPDATE_COMPLETE", Footing::Whole),
        ("UPDATE_FAILED", Footing::Halfway),
        ("UPDATE_ROLLBACK_IN_PROGRESS", Footing::Busy),
        ("UPDATE_ROLLBACK_FAILED", Footing::Stuck),
        ("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", Footing::Busy),
        ("UPDATE_ROLLBACK_COMPLETE", Footing::Whole),
        ("REVIEW_IN_PROGRESS", Footing::Stillborn),
        ("IMPORT_IN_PROGRESS", Footing::Busy),
        ("IMPORT_COMPLETE", Footing::Whole),
        ("IMPORT_ROLLBACK_IN_PROGRESS", Footing::Busy),
        ("IMPORT_ROLLBACK_FAILED", Footing::Lost),
        ("IMPORT_ROLLBACK_COMPLETE", Footing::Whole),
    ];

    #[test]
    fn every_status_has_its_footing() {
        for (status, expected) in STATUSES {
            assert_eq!(footing(Some(status)), expected, "{status}");
        }
        assert_eq!(footing(None), Footing::Absent);
    }

    #[test]
    fn a_stack_that_never_came_to_be_is_not_there() {
        for (status, is) in [
            ("CREATE_COMPLETE", true),
            ("UPDATE_ROLLBACK_FAILED", true),
            ("UPDATE_IN_PROGRESS", true),
            ("REVIEW_IN_PROGRESS", false),
            ("ROLLBACK_COMPLETE", false),
        ] {
            assert_eq!(has_come_to_be(status), is, "{status}");
        }
    }
}
