//! Container image repositories.

use cfn::{Handle, Scope};
use cfn_resources::ecr::{
    Repository, RepositoryEncryptionConfiguration, RepositoryEncryptionType,
    RepositoryImageScanningConfiguration, RepositoryImageTagMutability, RepositoryLifecyclePolicy,
};
use serde_json::json;

use crate::DataPolicy;

/// How many images a repository keeps: enough to go back through releases.
const IMAGES_KEPT: u32 = 50;

/// A repository whose tags never move, whose images are scanned, and which keeps the newest fifty.
#[track_caller]
pub fn repository(
    scope: &mut Scope<'_>,
    name: &str,
    repository_name: &str,
    data: DataPolicy,
) -> Handle<Repository> {
    let rule = json!({ "rules": [{
        "rulePriority": 1,
        "description": "Keep the newest images.",
        "selection": { "tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": IMAGES_KEPT },
        "action": { "type": "expire" }
    }] });
    let handle = scope.add(
        name,
        Repository::new()
            .repository_name(repository_name)
            .image_tag_mutability(RepositoryImageTagMutability::Immutable)
            .image_scanning_configuration(RepositoryImageScanningConfiguration::new().scan_on_push(true))
            .encryption_configuration(RepositoryEncryptionConfiguration::new(RepositoryEncryptionType::Kms))
            .empty_on_delete(data == DataPolicy::Disposable)
            .lifecycle_policy(RepositoryLifecyclePolicy::new().lifecycle_policy_text(rule.to_string())),
    );
    scope.removal(handle.raw(), data.removal());
    handle
}
