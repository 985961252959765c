//! Log groups with a retention.

use cfn::{Handle, Scope};
use cfn_resources::logs::LogGroup;

use crate::DataPolicy;

/// The retentions that CloudWatch Logs knows, in days.
pub const RETENTIONS_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// A log group that keeps its events for at least that many days.
#[track_caller]
pub fn log_group(
    scope: &mut Scope<'_>,
    name: &str,
    retention_days: u32,
    data: DataPolicy,
) -> Handle<LogGroup> {
    let days = RETENTIONS_DAYS.into_iter().find(|known| *known >= retention_days).unwrap_or(3653);
    let group = scope.add(name, LogGroup::new().retention_in_days(days));
    scope.removal(group.raw(), data.removal());
    scope.waive(
        group.raw(),
        "CKV_AWS_158",
        "CloudWatch Logs encrypts every group at rest; logs carry no payloads and no secrets that a key of our own would keep from readers of the group",
    );
    group
}
