//! A stack with a function of the tests' own.

use std::{fs, process::Command};

use cfn::Json;
use serde_json::json;

use super::House;

/// Compiles the function of `tests/functions` to give this answer, as the binary of the package `answer`.
pub(crate) fn compile(house: &House, answer: &str) {
    fs::create_dir_all(house.binaries()).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/functions/answer.rs");
    let status = Command::new("rustc")
        .args(["--edition", "2024", "-g", source, "-o"])
        .arg(house.binaries().join("answer"))
        .env("ANSWER", answer)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Leaves the stack of the bucket, and adds one with a function that is invoked, and one after it.
pub(crate) fn with_function(house: &House) {
    house.edit("manifest.json", |manifest| {
        let delivery = manifest["stacks"].as_array().unwrap().iter().find(|stack| stack["id"] == "delivery");
        let delivery = delivery.unwrap().clone();
        let stack = |id: &str, depends_on: Json, parameters: Json| {
            let mut stack = delivery.clone();
            stack["id"] = id.into();
            stack["name"] = format!("floodgate-local-{id}").into();
            stack["template"] = format!("{id}.template.json").into();
            stack["depends_on"] = depends_on;
            stack["parameters"] = parameters;
            stack
        };
        let field = |name: &str, field: &str| json!({ "name": name, "source": { "asset": { "name": "answer", "field": field } } });
        let mut functions = stack(
            "functions",
            json!(["delivery"]),
            json!([field("CodeBucket", "s3_bucket"), field("CodeKey", "s3_key")]),
        );
        functions["capabilities"] = json!(["CAPABILITY_IAM"]);
        functions["invocations"] = json!([{ "output": "FunctionInvocation" }]);
        let name = json!({ "output": { "stack": "functions", "output": "FunctionInvocation" } });
        let after = stack("after", json!(["functions"]), json!([{ "name": "Name", "source": name }]));
        manifest["stacks"] = json!([delivery, functions, after]);
        manifest["assets"] = json!([{ "name": "answer", "kind": "zip", "package": "answer" }]);
        manifest["workloads"] = json!([]);
        manifest["systems"] = json!({});
    });
    let functions = json!({
        "Parameters": { "CodeBucket": { "Type": "String" }, "CodeKey": { "Type": "String" } },
        "Resources": {
            "Role": { "Type": "AWS::IAM::Role", "Properties": { "AssumeRolePolicyDocument": {
                "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
                    "Principal": { "Service": "lambda.amazonaws.com" } }] } } },
            "Function": { "Type": "AWS::Lambda::Function", "Properties": {
                "Code": { "S3Bucket": { "Ref": "CodeBucket" }, "S3Key": { "Ref": "CodeKey" } },
                "Role": { "Fn::GetAtt": ["Role", "Arn"] }, "Runtime": "provided.al2023", "Handler": "bootstrap",
                "Timeout": 10 } },
        },
        "Outputs": { "FunctionInvocation": { "Value": { "Ref": "Function" } } },
    });
    let after = json!({
        "Parameters": { "Name": { "Type": "String" } },
        "Resources": { "Topic": { "Type": "AWS::SNS::Topic", "Properties": { "DisplayName": { "Ref": "Name" } } } },
    });
    for (id, template) in [("functions", functions), ("after", after)] {
        fs::write(house.assembly().join(format!("{id}.template.json")), template.to_string()).unwrap();
    }
}

/// What the function answers now, asked as any caller of Lambda asks.
pub(crate) fn answer(house: &House) -> String {
    let outputs: Json = serde_json::from_str(&house.succeeds(&["outputs", "--json"])).unwrap();
    let name = outputs["functions"]["FunctionInvocation"].as_str().unwrap();
    let url =
        format!("{}/2015-03-31/functions/{name}/invocations", house.environment.endpoint_url().unwrap());
    // The emulator takes the region from the scope of the signature, which it does not verify.
    let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/lambda/aws4_request, SignedHeaders=host, Signature=0";
    let asked = ureq::post(&url).header("Authorization", scope).send("{}");
    let text = asked.unwrap().body_mut().read_to_string().unwrap();
    text.trim_matches('"').to_owned()
}
