//! How releases get in: the bucket of artifacts, and, where a pipeline deploys, its role (by OIDC) and the role that
//! CloudFormation works with, which has just the actions that the rendered resource types need.

use std::collections::{BTreeMap, BTreeSet};

use cfn::{App, Handle, Json, Resource, Scope, Value};
use cfn_resources::{
    eks::AccessEntry,
    iam::{ManagedPolicy, OidcProvider, Role},
    kms::{Alias, Key},
    s3::{Bucket, BucketPolicy},
};
use constructs::{
    bucket::PrivateBucket,
    encryption,
    iam::{self, Trust},
    network::as_text,
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    environment::{Data, Delivery, Environment},
    network::stack_properties,
};

/// What the stack holds.
pub const DESCRIPTION: &str = "Delivery: artifact bucket, roles of the pipeline and of CloudFormation";

/// The identity provider of GitHub Actions.
const GITHUB: &str = "token.actions.githubusercontent.com";

/// The identity provider of GitLab CI.
const GITLAB: &str = "gitlab.com";

/// The branch that releases are made of: GitLab's tokens name no environment.
const GITLAB_BRANCH: &str = "main";

/// Who signs in: the name of the provider's construct and its host.
fn forge(delivery: &Delivery) -> (&'static str, &'static str) {
    if delivery.gitlab_project.is_some() { ("GitLab", GITLAB) } else { ("GitHub", GITHUB) }
}

/// Of whom its tokens speak in the jobs of an environment.
fn subject(delivery: &Delivery, environment: &str) -> String {
    match (&delivery.github_repository, &delivery.gitlab_project) {
        (_, Some(project)) => format!("project_path:{project}:ref_type:branch:ref:{GITLAB_BRANCH}"),
        (repository, None) => {
            format!("repo:{}:environment:{environment}", repository.as_deref().unwrap_or_default())
        }
    }
}

/// How long a job may work as the pipeline, in minutes: a new Kafka cluster takes most of an hour, and who has signed in
/// by a job's token cannot do so again in the middle.
pub const PIPELINE_SESSION_MINUTES: u32 = 180;

/// How long looking at an environment may take beside the bake time, in minutes: its drift, each system, twice.
const GATE_LOOK_MINUTES: u32 = 60;

/// IAM's limit of a session, in minutes (API reference of IAM, `CreateRole`, `MaxSessionDuration`).
const SESSION_MINUTES_MAX: u32 = 720;

/// How long a job may look whether a release may go on from an environment, in minutes: the bake time is waited for.
#[must_use]
pub fn gate_session_minutes(delivery: &Delivery) -> u32 {
    delivery.bake().saturating_add(GATE_LOOK_MINUTES).min(SESSION_MINUTES_MAX)
}

/// IAM's limit of a managed policy, in characters without white space.
const POLICY_CHARACTERS_MAX: usize = 6144;

/// What a policy has beside its actions, in characters.
const POLICY_FRAME_CHARACTERS: usize = 1500;

/// What Lambda needs to show the variables of a function.
const DECRYPT: &str = "kms:Decrypt";

/// The types that this stack holds itself.
const OWN_TYPES: [&str; 7] = [
    Alias::TYPE,
    Bucket::TYPE,
    BucketPolicy::TYPE,
    Key::TYPE,
    ManagedPolicy::TYPE,
    OidcProvider::TYPE,
    Role::TYPE,
];

/// The output that names the bucket of artifacts.
const BUCKET_OUTPUT: &str = "ArtifactBucket";

/// Adds the stack, after all whose types it looks at; it is deployed before them, because their code is read from
/// its bucket.
///
/// The cluster, whose stack has the id that is given with it, lets the role in that looks whether a release may go on.
pub fn add(app: &mut App, id: &str, environment: &Environment, (cluster, cluster_stack): (&Cluster, &str)) {
    let mut types = app.resource_types();
    if environment.delivery.as_ref().is_some_and(|delivery| delivery.promotes_to.is_some()) {
        // The cluster lets a role in that is not there yet.
        types.insert(AccessEntry::TYPE);
    }
    let handlers_of_others = handlers(&types);
    let needed = needed_actions(&handlers_of_others, &|_| true);
    // Whoever looks for drift looks at this stack as well, which CloudFormation changes without its role.
    types.extend(OWN_TYPES);
    let readable = needed_actions(&handlers(&types), &|handler| handler == "read");
    let services = trusted_services(app);
    let stack = app.stack(id, stack_properties(environment, DESCRIPTION));
    let name = stack.name().to_owned();
    let mut scope = stack.scope();
    let data = environment.data_policy();
    let key = encryption::key(&mut scope, "Key", &name, "Artifacts at rest", &[], data);
    let artifacts = PrivateBucket::new(&mut scope, "Artifacts", &key, data);

    scope.output::<String>(
        BUCKET_OUTPUT,
        as_text(&artifacts.bucket.reference()),
        "Where artifacts are published",
    );
    let gate = environment.delivery.as_ref().and_then(|delivery| {
        let reads = read_policies(&mut scope, environment, &readable);
        let provider = roles(&mut scope, environment, delivery, &artifacts, (&needed, &reads), &services);
        let next = delivery.promotes_to.as_ref()?;
        Some(gate_role(&mut scope, environment, (delivery, next), &provider, &artifacts, &reads))
    });
    app.artifact_bucket(id, BUCKET_OUTPUT);
    app.deploy_first(id);
    if let Some(gate) = gate {
        cluster.let_look(app, cluster_stack, &gate);
    }
}

/// An ARN of something of the environment's in its account and region, `rest` as the service names it.
fn own_arn(service: &str, rest: &str) -> Value<String> {
    Value::sub(&format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{rest}"), [])
}

/// Every resource.
fn anything() -> Value<String> {
    Value::Literal("*".to_owned())
}

/// Roles, policies and identity providers of the environment.
fn identities(environment: &Environment) -> [Value<String>; 3] {
    let own =
        |rest: &str| Value::sub(&format!("arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:{rest}"), []);
    let prefix = &environment.prefix;
    [own(&format!("role/{prefix}-*")), own(&format!("policy/{prefix}-*")), own("oidc-provider/*")]
}

/// A statement bound to the environment's region.
fn in_region(environment: &Environment, mut statement: Json) -> Json {
    statement["Condition"] = json!({ "StringEquals": { "aws:RequestedRegion": environment.region } });
    statement
}

/// What a look for drift reads of the rendered types: CloudFormation reads resources with the rights of whoever asks
/// it to look, not with the role that it works with.
fn read_policies(
    scope: &mut Scope<'_>,
    environment: &Environment,
    readable: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<Handle<ManagedPolicy>> {
    let mut scope = scope.child("Reads");
    let mut policies = Vec::new();
    let mut readable = readable.clone();
    // Schemas name it for a handler that reads; whoever looks hands no role on.
    if let Some(actions) = readable.get_mut("iam") {
        actions.remove("iam:PassRole");
    }
    // For the variables of functions, and for nothing else that keys protect.
    let decrypts = readable.get_mut("kms").is_some_and(|actions| actions.remove(DECRYPT));
    let readable = &readable;
    for (number, actions) in groups(readable).into_iter().enumerate() {
        // IAM is in no region.
        let (identity, others): (Vec<&str>, Vec<&str>) =
            actions.iter().copied().partition(|action| action.starts_with("iam:"));
        let mut statements = Vec::new();
        if !others.is_empty() {
            statements.push(in_region(environment, iam::allow("Reads", &others, &[anything()])));
        }
        if !identity.is_empty() {
            statements.push(iam::allow("Identities", &identity, &identities(environment)));
        }
        if number == 0 && decrypts {
            let mut statement = iam::allow("Variables", &[DECRYPT], &[anything()]);
            let lambda = format!("lambda.{}.amazonaws.com", environment.region);
            statement["Condition"] = json!({ "StringEquals": { "kms:ViaService": lambda } });
            statements.push(statement);
        }
        let policy = scope.add(
            &format!("Policy{}", number + 1),
            ManagedPolicy::new(iam::document(statements))
                .description("What a look for drift reads of the rendered types"),
        );
        scope.waive(
            policy.raw(),
            "FG402",
            "CloudFormation names what it creates: reading for drift is bound by region and type, not by name",
        );
        policies.push(policy);
    }
    policies
}

/// What a look for drift asks CloudFormation for. The state of a detection is asked for by its id, and settings of
/// types are the account's: IAM knows no resource of either.
fn looks_for_drift(stacks: &Value<String>) -> [Json; 2] {
    let of_stacks = [
        "cloudformation:DescribeStackResourceDrifts",
        "cloudformation:DetectStackDrift",
        "cloudformation:DetectStackResourceDrift",
    ];
    let without_resource = [
        "cloudformation:BatchDescribeTypeConfigurations",
        "cloudformation:DescribeStackDriftDetectionStatus",
    ];
    [
        iam::allow("Drift", &of_stacks, std::slice::from_ref(stacks)),
        iam::allow("Detections", &without_resource, &[anything()]),
    ]
}

/// The roles of the pipeline and of CloudFormation.
fn roles(
    scope: &mut Scope<'_>,
    environment: &Environment,
    delivery: &Delivery,
    artifacts: &PrivateBucket,
    (needed, reads): (&BTreeMap<String, BTreeSet<String>>, &[Handle<ManagedPolicy>]),
    services: &BTreeSet<String>,
) -> Handle<OidcProvider> {
    let (name, host) = forge(delivery);
    let execution = execution_role(scope, environment, needed, services);
    let provider = scope
        .add(name, OidcProvider::new().url(format!("https://{host}")).client_id_list(["sts.amazonaws.com"]));
    let prefix = &environment.prefix;
    let stacks = own_arn("cloudformation", &format!("stack/{prefix}-*/*"));
    let repositories = own_arn("ecr", &format!("repository/{prefix}-*"));
    // Migrations and the like: what a stack names to be invoked once it is deployed.
    let functions = own_arn("lambda", &format!("function:{prefix}-*"));
    // One deployment at a time: a parameter says whose. Another one names the stacks whose code was swapped.
    let parameter = |name: &str| own_arn("ssm", &format!("parameter/{prefix}/{name}"));
    let lock = parameter("deploy-lock");
    let kubernetes = own_arn("eks", &format!("cluster/{prefix}-*"));
    let kafka = own_arn("kafka", &format!("cluster/{prefix}-*/*"));
    let event_sources = own_arn("lambda", "event-source-mapping:*");
    let alarms = own_arn("cloudwatch", &format!("alarm:{prefix}-*"));
    let mut statements = vec![
        iam::allow(
            "Stacks",
            &[
                "cloudformation:ContinueUpdateRollback",
                "cloudformation:CreateChangeSet",
                "cloudformation:DeleteChangeSet",
                "cloudformation:DeleteStack",
                "cloudformation:DescribeChangeSet",
                "cloudformation:DescribeEvents",
                "cloudformation:DescribeStackEvents",
                "cloudformation:DescribeStacks",
                "cloudformation:ExecuteChangeSet",
                "cloudformation:GetTemplate",
                "cloudformation:ListStackResources",
                "cloudformation:RollbackStack",
                "cloudformation:UpdateTerminationProtection",
            ],
            std::slice::from_ref(&stacks),
        ),
        pass_role(&as_text(&execution.arn()), &BTreeSet::from(["cloudformation.amazonaws.com".to_owned()])),
        iam::allow(
            "Images",
            &[
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:CompleteLayerUpload",
                "ecr:DescribeImages",
                "ecr:GetDownloadUrlForLayer",
                "ecr:InitiateLayerUpload",
                "ecr:PutImage",
                "ecr:UploadLayerPart",
            ],
            &[repositories],
        ),
        iam::allow("Lock", &["ssm:GetParameter", "ssm:GetParameterHistory", "ssm:PutParameter"], &[lock]),
        iam::allow("Invocations", &["lambda:InvokeFunction"], std::slice::from_ref(&functions)),
        // What workloads are installed into, and what their manifests wait for.
        iam::allow("Cluster", &["eks:DescribeCluster"], &[kubernetes]),
        iam::allow("Brokers", &["kafka:GetBootstrapBrokers", "kafka:ListNodes"], &[kafka]),
        // Whether it works, at the end of a deployment.
        iam::allow("EventSources", &["lambda:GetEventSourceMapping"], &[event_sources]),
        iam::allow("Alarms", &["cloudwatch:DescribeAlarms"], &[alarms]),
        iam::allow("SignIn", &["ecr:GetAuthorizationToken"], &[anything()]),
        // What is left over once an environment is taken down.
        iam::allow("Tags", &["tag:GetResources"], &[anything()]),
    ];
    // What somebody has changed by hand is shown before it is overwritten.
    statements.extend(looks_for_drift(&stacks));
    statements.extend(artifacts.grant_read_write("Artifacts"));
    if environment.data == Data::Disposable {
        // Code may be swapped where data is disposable, and a deploy puts right what that left.
        statements.push(iam::allow(
            "Swapped",
            &["ssm:GetParameter", "ssm:PutParameter"],
            &[parameter("hotswapped")],
        ));
        let code = ["lambda:GetFunctionConfiguration", "lambda:UpdateFunctionCode"];
        statements.push(iam::allow("SwappedCode", &code, &[functions]));
    }
    let trust = Trust::OpenIdConnect {
        provider_arn: provider.arn(),
        host,
        audience: "sts.amazonaws.com",
        subject: subject(delivery, &environment.name),
    };
    let pipeline = iam::role(scope, "Pipeline", "The pipeline deploys releases", &trust, &[], statements);
    if let Some(pipeline) = scope.get_mut(&pipeline) {
        *pipeline = pipeline
            .clone()
            .max_session_duration(i64::from(PIPELINE_SESSION_MINUTES) * 60)
            .managed_policy_arns(reads.iter().map(|policy| policy.reference()).collect::<Vec<_>>());
    }
    scope.output::<String>("PipelineRoleArn", pipeline.arn(), "The role that the pipeline assumes");
    scope.output::<String>("ExecutionRoleArn", execution.arn(), "The role that CloudFormation works with");
    provider
}

/// The role with which the next environment's jobs look whether a release may go on from here, and no more: stacks
/// and their drift (for which the resources are read), alarms, event sources, what runs in the cluster, records and
/// releases.
fn gate_role(
    scope: &mut Scope<'_>,
    environment: &Environment,
    (delivery, next): (&Delivery, &String),
    provider: &Handle<OidcProvider>,
    artifacts: &PrivateBucket,
    reads: &[Handle<ManagedPolicy>],
) -> Handle<Role> {
    let mut scope = scope.child("Gate");
    let prefix = &environment.prefix;
    let stacks = own_arn("cloudformation", &format!("stack/{prefix}-*/*"));
    let mut statements = vec![
        iam::allow(
            "Stacks",
            &[
                "cloudformation:DescribeStacks",
                "cloudformation:GetTemplate",
                "cloudformation:ListStackResources",
            ],
            std::slice::from_ref(&stacks),
        ),
        iam::allow(
            "Alarms",
            &["cloudwatch:DescribeAlarmHistory", "cloudwatch:DescribeAlarms"],
            &[own_arn("cloudwatch", "alarm:*")],
        ),
        // What the smoke check asks for, once more.
        iam::allow("Cluster", &["eks:DescribeCluster"], &[own_arn("eks", &format!("cluster/{prefix}-*"))]),
        iam::allow(
            "Brokers",
            &["kafka:GetBootstrapBrokers", "kafka:ListNodes"],
            &[own_arn("kafka", &format!("cluster/{prefix}-*/*"))],
        ),
        iam::allow(
            "EventSources",
            &["lambda:GetEventSourceMapping"],
            &[own_arn("lambda", "event-source-mapping:*")],
        ),
    ];
    statements.extend(looks_for_drift(&stacks));
    statements.extend(artifacts.grant_read("Artifacts"));
    // Whether somebody is at work there.
    let lock = own_arn("ssm", &format!("parameter/{prefix}/deploy-lock"));
    statements.push(iam::allow("Lock", &["ssm:GetParameter"], &[lock]));
    if environment.data == Data::Disposable {
        // Whether code was swapped in past the release.
        let swapped = own_arn("ssm", &format!("parameter/{prefix}/hotswapped"));
        statements.push(iam::allow("Swapped", &["ssm:GetParameter"], &[swapped]));
    }
    let trust = Trust::OpenIdConnect {
        provider_arn: provider.arn(),
        host: forge(delivery).1,
        audience: "sts.amazonaws.com",
        subject: subject(delivery, next),
    };
    let role = iam::role(
        &mut scope,
        "Role",
        "Jobs of the next environment look whether a release may go on from here",
        &trust,
        &[],
        statements,
    );
    if let Some(role) = scope.get_mut(&role) {
        *role = role
            .clone()
            .max_session_duration(i64::from(gate_session_minutes(delivery)) * 60)
            .managed_policy_arns(reads.iter().map(|policy| policy.reference()).collect::<Vec<_>>());
    }
    scope.output::<String>("GateRoleArn", role.arn(), "The role that looks whether a release may go on");
    role
}

/// Actions that resource schemas list for their handlers and that IAM does not have.
const UNKNOWN_TO_IAM: [&str; 5] = [
    "lambda:AssociateRuntimeAlias",
    "memorydb:ModifyReplicationGroup",
    "s3:GetObjectMetadata",
    "s3:REST.PUT.OBJECT",
    "vpc-lattice:DescribeServiceNetworkVpcEndpointAssociation",
];

/// The actions that some of CloudFormation's handlers (`create`, `read`…) of these types need, by service.
fn needed_actions(
    handlers: &[(String, Vec<String>)],
    wanted: &dyn Fn(&str) -> bool,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut needed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for action in handlers.iter().filter(|(handler, _)| wanted(handler)).flat_map(|(_, actions)| actions) {
        let known = !UNKNOWN_TO_IAM.iter().any(|unknown| unknown.eq_ignore_ascii_case(action));
        if let Some((service, _)) = action.split_once(':').filter(|_| known) {
            needed.entry(service.to_owned()).or_default().insert(action.clone());
        }
    }
    needed
}

/// The types' handlers and the actions of each.
fn handlers(types: &BTreeSet<&'static str>) -> Vec<(String, Vec<String>)> {
    types
        .iter()
        .filter_map(|kind| cfn_resources::schema(kind))
        .flat_map(|schema| schema.handler_actions())
        .collect()
}

/// The role that CloudFormation works with: policies of some services each, as many as IAM's limit of a
/// policy's size asks for. What acts on roles and policies is bound to those of the environment, everything
/// else to its region.
fn execution_role(
    scope: &mut Scope<'_>,
    environment: &Environment,
    needed: &BTreeMap<String, BTreeSet<String>>,
    services: &BTreeSet<String>,
) -> Handle<Role> {
    let mut scope = scope.child("Execution");
    let mut policies = Vec::new();
    for (number, actions) in groups(needed).into_iter().enumerate() {
        let (identity, others): (Vec<&str>, Vec<&str>) =
            actions.iter().copied().partition(|action| action.starts_with("iam:"));
        let mut statements: Vec<Json> = Vec::new();
        if !others.is_empty() {
            statements.push(in_region(environment, iam::allow("Handlers", &others, &[anything()])));
        }
        if !identity.is_empty() {
            let (linked, identity): (Vec<&str>, Vec<&str>) =
                identity.into_iter().partition(|action| *action == "iam:CreateServiceLinkedRole");
            let (pass, identity): (Vec<&str>, Vec<&str>) =
                identity.into_iter().partition(|action| *action == "iam:PassRole");
            if !pass.is_empty() {
                let [own_roles, ..] = identities(environment);
                statements.push(pass_role(&own_roles, services));
            }
            statements.push(iam::allow("Identities", &identity, &identities(environment)));
            if !linked.is_empty() {
                let services =
                    Value::sub("arn:${AWS::Partition}:iam::${AWS::AccountId}:role/aws-service-role/*", []);
                statements.push(iam::allow("ServiceRoles", &linked, &[services]));
            }
        }
        let policy = scope.add(
            &format!("Policy{}", number + 1),
            ManagedPolicy::new(iam::document(statements))
                .description("What CloudFormation's handlers of the rendered types need"),
        );
        scope.waive(
            policy.raw(),
            "FG402",
            "CloudFormation names what it creates: the handlers' actions are bound by region and type, not by name",
        );
        policies.push(policy.reference());
    }
    let role = iam::role(
        &mut scope,
        "Role",
        "CloudFormation works with it",
        &Trust::service("cloudformation.amazonaws.com"),
        &[],
        Vec::new(),
    );
    if let Some(role) = scope.get_mut(&role) {
        *role = role.clone().managed_policy_arns(policies);
    }
    role
}

/// Hands a role on, to these services alone.
fn pass_role(role: &Value<String>, services: &BTreeSet<String>) -> Json {
    let mut statement = iam::allow("PassRole", &["iam:PassRole"], std::slice::from_ref(role));
    statement["Condition"] = json!({ "StringEquals": { "iam:PassedToService": services } });
    statement
}

/// The services that the rendered roles trust: whom CloudFormation hands them on to.
fn trusted_services(app: &mut App) -> BTreeSet<String> {
    let mut services = BTreeSet::new();
    app.visit(|_, resource| {
        if resource.resource_type() != "AWS::IAM::Role" {
            return;
        }
        let properties = resource.properties();
        let statements = properties
            .get("AssumeRolePolicyDocument")
            .and_then(|document| document.get("Statement")?.as_array())
            .into_iter()
            .flatten();
        services.extend(
            statements
                .filter_map(|statement| statement.pointer("/Principal/Service")?.as_str())
                .map(str::to_owned),
        );
    });
    services
}

/// The actions in groups that fit into a policy each; a service's actions stay together as far as they fit.
fn groups(needed: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<&str>> {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    let mut characters = POLICY_CHARACTERS_MAX;
    for action in needed.values().flatten() {
        let more = action.len() + 3;
        if characters + more + POLICY_FRAME_CHARACTERS > POLICY_CHARACTERS_MAX {
            groups.push(Vec::new());
            characters = 0;
        }
        characters += more;
        if let Some(last) = groups.last_mut() {
            last.push(action);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_is_signed_in_for_as_long_as_the_release_bakes() {
        let of = |bake_minutes| {
            let delivery =
                Delivery { github_repository: None, gitlab_project: None, promotes_to: None, bake_minutes };
            gate_session_minutes(&delivery)
        };
        assert_eq!([of(None), of(Some(30)), of(Some(1440))], [70, 90, SESSION_MINUTES_MAX]);
    }

    #[test]
    fn the_role_has_what_the_types_need_and_nothing_else() {
        let needed = needed_actions(&handlers(&BTreeSet::from(["AWS::SQS::Queue"])), &|_| true);
        assert_eq!(needed.keys().collect::<Vec<_>>(), ["sqs"]);
        assert!(needed["sqs"].contains("sqs:CreateQueue") && !needed["sqs"].contains("sqs:SendMessage"));
    }

    #[test]
    fn no_policy_is_larger_than_iam_takes() {
        let all = BTreeSet::from([
            "AWS::DynamoDB::Table",
            "AWS::EC2::SecurityGroup",
            "AWS::EC2::VPC",
            "AWS::EKS::Cluster",
            "AWS::Lambda::EventSourceMapping",
            "AWS::Lambda::Function",
            "AWS::MSK::Cluster",
            "AWS::RDS::DBCluster",
            "AWS::RDS::DBInstance",
            "AWS::S3::Bucket",
        ]);
        let reads =
            needed_actions(&handlers(&BTreeSet::from(["AWS::SQS::Queue"])), &|handler| handler == "read");
        assert!(reads["sqs"].contains("sqs:GetQueueAttributes") && !reads["sqs"].contains("sqs:CreateQueue"));
        let groups = needed_actions(&handlers(&all), &|_| true);
        let groups = super::groups(&groups);
        assert!(groups.len() > 1);
        for group in groups {
            let text: usize = group.iter().map(|action| action.len() + 3).sum();
            assert!(text + POLICY_FRAME_CHARACTERS <= POLICY_CHARACTERS_MAX, "{text}");
            assert!(!group.is_empty());
        }
    }
}
