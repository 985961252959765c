//! What changes is told before it is done: plans, drift, and what wants a yes.

use std::{fs, process::Stdio};

use serde_json::{Value as Json, json};

use super::{Scene, count, told};

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_also_where_nothing_is_built() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy", "--stacks-only"]);
    let plan = scene.succeeds(&["deploy", "--plan"]);
    assert!(plan.contains("dev: 5 as they should be") && !plan.contains("not known"), "{plan}");
    scene.journal();
    fs::remove_file(scene.path("binaries/answer")).unwrap();
    let plan = scene.succeeds(&["deploy", "--plan"]);
    for part in [
        "whether the code of migrate has changed is not known",
        "`cargo xtask build` makes it",
        "it is as it should be, unless what it gets is published anew",
        "dev: 1 to look at again, 4 as they should be",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    assert!(scene.journal().is_empty(), "nothing is touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_changed_is_shown_before_it_is_overwritten() {
    let scene = Scene::new().await;
    scene.succeeds(&["deploy", "--stacks-only"]);
    assert_eq!(count(&scene.journal(), "DetectStackDrift"), 0, "what is not there has not drifted");
    let drifted = "<member><StackId>s</StackId><LogicalResourceId>Topic</LogicalResourceId><ResourceType>AWS::MSK::Topic</ResourceType><StackResourceDriftStatus>MODIFIED</StackResourceDriftStatus><PropertyDifferences><member><PropertyPath>/PartitionCount</PropertyPath><ExpectedValue>24</ExpectedValue><ActualValue>30</ActualValue><DifferenceType>NOT_EQUAL</DifferenceType></member></PropertyDifferences><Timestamp>2026-01-01T00:00:00Z</Timestamp></member>";
    scene.aws.held().drifts.insert("fg-dev-kafka".to_owned(), drifted.to_owned());
    // Nothing changes, so nobody is asked.
    scene.succeeds(&["deploy", "--stacks-only"]);
    assert_eq!(count(&scene.journal(), "DetectStackDrift"), 0);

    scene.edit("kafka.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["PartitionCount"] = json!(48);
    });
    let arguments = ["deploy", "--stacks-only", "--require-approval", "broadening"];
    let refused = scene.engine(&arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", told(refused).1);
    let journal = scene.journal();
    assert_eq!(count(&journal, "DetectStackDrift"), 1, "only of what will change: {journal:#?}");
    assert_eq!(count(&journal, "ExecuteChangeSet"), 0, "{journal:#?}");
    let text = scene.succeeds(&["deploy", "--stacks-only", "--require-approval", "never"]);
    for part in
        ["Topic (AWS::MSK::Topic) is modified; this deployment overwrites it", "/PartitionCount: 24 -> 30"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    // What cannot be read hides nothing of what can, and nobody is told that all is well.
    scene.aws.held().unreadable = true;
    let drift = ["living", "drift", "--stack", "kafka"];
    let (known, text) = told(scene.plain(&scene.path("assembly"), &drift).output().unwrap());
    assert!(!known, "{text}");
    for part in ["/PartitionCount: 24 -> 30", "is not known", "Failed to detect drift on resource [Topic]"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    scene.edit("kafka.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["PartitionCount"] = json!(49);
    });
    let text = scene.succeeds(&["deploy", "--stacks-only", "--require-approval", "never"]);
    for part in ["this deployment overwrites it", "whether somebody has changed it is not known: Failed to"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    scene.journal();
    scene.edit("kafka.template.json", |template| {
        template["Resources"]["Topic"]["Properties"]["PartitionCount"] = json!(50);
    });
    scene.succeeds(&["deploy", "--stacks-only", "--no-drift", "--require-approval", "broadening"]);
    assert_eq!(count(&scene.journal(), "DetectStackDrift"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_allows_more_or_puts_data_at_risk_wants_a_yes() {
    let scene = Scene::new().await;
    let set = |actions: Json, from: &str, table: bool| {
        let statement =
            json!({ "Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::artifacts/*" });
        let role = json!({ "Type": "AWS::IAM::Role", "Properties": { "AssumeRolePolicyDocument": {}, "Policies": [
            { "PolicyName": "p", "PolicyDocument": { "Version": "2012-10-17", "Statement": [statement] } }] } });
        let ingress = json!([{ "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIp": from }]);
        let group = json!({ "Type": "AWS::EC2::SecurityGroup", "Properties": { "GroupDescription": "g", "SecurityGroupIngress": ingress } });
        scene.edit("kafka.template.json", |template| {
            template["Resources"]["Role"] = role;
            template["Resources"]["Group"] = group;
            if table {
                template["Resources"]["Users"] =
                    json!({ "Type": "AWS::DynamoDB::Table", "DeletionPolicy": "Delete" });
            } else {
                template["Resources"].as_object_mut().unwrap().remove("Users");
            }
        });
    };
    let arguments = ["deploy", "--stacks-only", "--require-approval", "broadening"];
    let asked = || scene.engine(&arguments).stdin(Stdio::null()).output().unwrap();
    set(json!("s3:GetObject"), "10.0.0.0/8", true);
    scene.succeeds(&["deploy", "--stacks-only", "--require-approval", "never"]);
    for (actions, from, table, words) in [
        (json!(["s3:GetObject", "s3:PutObject"]), "10.0.0.0/8", true, "! access broadened"),
        (json!("s3:GetObject"), "0.0.0.0/0", true, "! network broadened"),
        (json!("s3:GetObject"), "10.0.0.0/8", false, "! data at risk"),
    ] {
        set(actions, from, table);
        scene.journal();
        let output = asked();
        assert_eq!(output.status.code(), Some(4), "{words}: {}", told(output).1);
        let text = told(output).1;
        assert!(text.contains(words) && text.contains("fg-dev-kafka: 0 added"), "{words}: {text}");
        assert_eq!(count(&scene.journal(), "ExecuteChangeSet"), 0);
    }
    // What takes away is nothing to ask about.
    set(json!("s3:GetObject"), "10.1.0.0/16", true);
    let (success, text) = told(asked());
    assert!(success && text.contains("fg-dev-kafka: 0 added, 1 changed"), "{text}");
}
