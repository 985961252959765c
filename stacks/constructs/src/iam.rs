//! Policy documents and roles.

use cfn::{Handle, Json, Property, Scope, Value};
use cfn_resources::{
    iam::{Role, RolePolicyProperty},
    ids,
};
use serde_json::json;

/// A policy document of these statements.
#[must_use]
pub fn document(statements: Vec<Json>) -> Json {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Allows actions on resources.
#[must_use]
pub fn allow(sid: &str, actions: &[&str], resources: &[Value<String>]) -> Json {
    json!({
        "Sid": sid, "Effect": "Allow", "Action": actions,
        "Resource": resources.iter().map(Property::to_json).collect::<Vec<_>>()
    })
}

/// Refuses actions on resources to everybody who does not come over TLS, for the resource's own policy.
#[must_use]
pub fn over_tls_alone(actions: &[&str], resources: &[Value<String>]) -> Json {
    let mut statement = allow("OverTlsAlone", actions, resources);
    statement["Effect"] = json!("Deny");
    statement["Principal"] = json!("*");
    statement["Condition"] = json!({ "Bool": { "aws:SecureTransport": "false" } });
    statement
}

/// Who may take a role on.
#[derive(Clone, Debug)]
pub enum Trust {
    /// An AWS service, by its principal such as `eks.amazonaws.com`.
    Service {
        /// The principal.
        principal: &'static str,
        /// Whether the service tags its sessions: EKS Auto Mode and Pod Identity do and fail without it.
        tags_sessions: bool,
    },
    /// Somebody whom an identity provider vouches for, such as a pipeline.
    OpenIdConnect {
        /// The provider's ARN.
        provider_arn: Value<String>,
        /// The provider's host.
        host: &'static str,
        /// Whom its tokens must be meant for.
        audience: &'static str,
        /// Whom they must speak of, exactly.
        subject: String,
    },
}

impl Trust {
    /// Pods of a cluster, through EKS Pod Identity.
    #[must_use]
    pub fn pods() -> Self {
        Trust::Service { principal: "pods.eks.amazonaws.com", tags_sessions: true }
    }

    /// A service that does not tag its sessions.
    #[must_use]
    pub fn service(principal: &'static str) -> Self {
        Trust::Service { principal, tags_sessions: false }
    }

    fn document(&self) -> Json {
        let statement = match self {
            Trust::Service { principal, tags_sessions } => {
                let actions: &[&str] =
                    if *tags_sessions { &["sts:AssumeRole", "sts:TagSession"] } else { &["sts:AssumeRole"] };
                json!({ "Effect": "Allow", "Principal": { "Service": principal }, "Action": actions })
            }
            Trust::OpenIdConnect { provider_arn, host, audience, subject } => json!({
                "Effect": "Allow",
                "Principal": { "Federated": provider_arn.to_json() },
                "Action": ["sts:AssumeRoleWithWebIdentity"],
                "Condition": { "StringEquals": {
                    format!("{host}:aud"): audience, format!("{host}:sub"): subject
                } }
            }),
        };
        document(vec![statement])
    }
}

/// A role with AWS-managed policies (by name) and statements of its own.
#[track_caller]
pub fn role(
    scope: &mut Scope<'_>,
    name: &str,
    description: &str,
    trust: &Trust,
    managed_policies: &[&str],
    statements: Vec<Json>,
) -> Handle<Role> {
    let mut role = Role::new(trust.document()).description(description);
    if !managed_policies.is_empty() {
        let arns: Vec<Value<ids::ManagedPolicyPolicyArn>> = managed_policies
            .iter()
            .map(|policy| {
                Value::sub(&format!("arn:${{AWS::Partition}}:iam::aws:policy/{policy}"), []).assume()
            })
            .collect();
        role = role.managed_policy_arns(arns);
    }
    if !statements.is_empty() {
        role = role.policies([RolePolicyProperty::new(document(statements), "access")]);
    }
    scope.add(name, role)
}
