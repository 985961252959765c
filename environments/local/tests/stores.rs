//! Databases and caches through CloudFormation: what is made is on the real servers, and goes with its stack.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value as Json, json};
use support::{Environment, cloudformation::CloudFormation, database::ask};

fn template(retention_days: u32, database: &str) -> Json {
    let reference = |name: &str| json!({ "Ref": name });
    let attribute = |name: &str, attribute: &str| json!({ "Fn::GetAtt": [name, attribute] });
    json!({
        "Resources": {
            "Vpc": { "Type": "AWS::EC2::VPC", "Properties": { "CidrBlock": "10.0.0.0/16" } },
            "One": { "Type": "AWS::EC2::Subnet", "Properties": {
                "VpcId": reference("Vpc"), "CidrBlock": "10.0.0.0/24" } },
            "Other": { "Type": "AWS::EC2::Subnet", "Properties": {
                "VpcId": reference("Vpc"), "CidrBlock": "10.0.1.0/24" } },
            "Subnets": { "Type": "AWS::RDS::DBSubnetGroup", "Properties": {
                "DBSubnetGroupDescription": "both", "SubnetIds": [reference("One"), reference("Other")] } },
            "Cluster": { "Type": "AWS::RDS::DBCluster", "Properties": {
                "DBClusterIdentifier": database, "Engine": "aurora-postgresql", "EngineVersion": "16.8",
                "DatabaseName": database, "MasterUsername": "administrator", "ManageMasterUserPassword": true,
                "DBSubnetGroupName": reference("Subnets"), "BackupRetentionPeriod": retention_days } },
            "Instance": { "Type": "AWS::RDS::DBInstance", "Properties": {
                "DBClusterIdentifier": reference("Cluster"), "Engine": "aurora-postgresql",
                "DBInstanceClass": "db.t4g.medium" } },
            "Proxy": { "Type": "AWS::RDS::DBProxy", "Properties": {
                "DBProxyName": "tests", "EngineFamily": "POSTGRESQL", "DefaultAuthScheme": "IAM_AUTH",
                "RoleArn": "arn:aws:iam::000000000000:role/proxy",
                "VpcSubnetIds": [reference("One"), reference("Other")] } },
            "Target": { "Type": "AWS::RDS::DBProxyTargetGroup", "DependsOn": "Instance", "Properties": {
                "DBProxyName": reference("Proxy"), "TargetGroupName": "default",
                "DBClusterIdentifiers": [reference("Cluster")],
                "ConnectionPoolConfigurationInfo": { "MaxConnectionsPercent": 10 + retention_days } } },
            "CacheSubnets": { "Type": "AWS::MemoryDB::SubnetGroup", "Properties": {
                "SubnetGroupName": "tests", "SubnetIds": [reference("One")] } },
            "CacheUser": { "Type": "AWS::MemoryDB::User", "Properties": {
                "UserName": "worker", "AccessString": "on ~* +@read", "AuthenticationMode": { "Type": "iam" } } },
            "CacheAccess": { "Type": "AWS::MemoryDB::ACL", "Properties": {
                "ACLName": "tests", "UserNames": [reference("CacheUser")] } },
            "Cache": { "Type": "AWS::MemoryDB::Cluster", "Properties": {
                "ClusterName": "tests", "ACLName": reference("CacheAccess"), "NodeType": "db.t4g.small",
                "NumShards": retention_days, "SubnetGroupName": reference("CacheSubnets") } },
        },
        "Outputs": {
            "Host": { "Value": attribute("Cluster", "Endpoint.Address") },
            "Port": { "Value": attribute("Cluster", "Endpoint.Port") },
            "Secret": { "Value": attribute("Cluster", "MasterUserSecret.SecretArn") },
            "Proxy": { "Value": attribute("Proxy", "Endpoint") },
            "ProxyArn": { "Value": attribute("Proxy", "DBProxyArn") },
            "Instance": { "Value": attribute("Instance", "Endpoint.Address") },
            "CacheArn": { "Value": attribute("Cache", "ARN") },
            "CacheHost": { "Value": attribute("Cache", "ClusterEndpoint.Address") },
            "CachePort": { "Value": attribute("Cache", "ClusterEndpoint.Port") },
            "CacheUser": { "Value": attribute("CacheUser", "Arn") },
        }
    })
}

#[test]
fn a_stack_makes_a_real_database_with_its_master_user_and_takes_both_with_it() {
    let environment = Environment::new();
    let state = environment.up();
    let (database, cache) = (state.postgresql.unwrap(), state.valkey.unwrap());
    let cloudformation = CloudFormation::at(&state.aws.endpoint_url);
    let deploy = |template: &Json| {
        let status = cloudformation.deploy("stores", template);
        assert!(status.ends_with("E_COMPLETE"), "{status}: {:?}", cloudformation.reasons("stores"));
    };
    let output = |name: &str| cloudformation.output("stores", name).unwrap_or_default();
    deploy(&template(1, "ledger"));
    assert_eq!((output("Host"), output("Port")), (database.host.clone(), database.port.to_string()));
    assert_eq!(output("Instance"), database.host);
    assert_eq!(output("Proxy"), format!("{}:{}", database.host, database.port));
    assert!(output("ProxyArn").contains(":db-proxy:prx-"), "{}", output("ProxyArn"));
    assert_eq!(
        (output("CacheHost"), output("CachePort")),
        (format!("{}:{}", cache.host, cache.port), cache.port.to_string())
    );
    assert!(output("CacheArn").ends_with(":cluster/tests"), "{}", output("CacheArn"));
    assert!(output("CacheUser").ends_with(":user/worker"), "{}", output("CacheUser"));

    let secret = || {
        let asked = json!({ "SecretId": output("Secret") });
        let answer = cloudformation.json("secretsmanager", "secretsmanager.GetSecretValue", &asked);
        serde_json::from_str::<Json>(answer["SecretString"].as_str().unwrap_or_default()).unwrap_or_default()
    };
    let as_master = |told: &Json, name: &str| {
        json!({ "host": database.host, "port": database.port, "superuser": told["username"],
                "password": told["password"], "database": name })
    };
    let told = secret();
    let master = as_master(&told, "ledger");
    ask(&master, "CREATE TABLE entries (id int PRIMARY KEY)").unwrap();
    ask(&master, "CREATE ROLE writer LOGIN CONNECTION LIMIT 10").unwrap();
    ask(&master, "GRANT rds_iam TO writer").unwrap();
    assert_eq!(ask(&master, "CREATE ROLE other SUPERUSER"), None, "a master user is no superuser, as on RDS");

    deploy(&template(2, "ledger"));
    assert_eq!(secret(), told, "an update leaves the password alone");
    assert_eq!(ask(&master, "SELECT count(*) FROM entries").as_deref(), Some("0"));

    deploy(&template(2, "books"));
    assert_eq!(ask(&master, "SELECT 1"), None, "the former database went with its cluster");
    assert_eq!(ask(&as_master(&secret(), "books"), "SELECT 1").as_deref(), Some("1"));

    let password = std::fs::read_to_string(&database.password_file).unwrap();
    let server = json!({ "host": database.host, "port": database.port, "superuser": database.superuser,
                         "password": password });
    cloudformation.delete("stores");
    let left = ask(
        &server,
        "SELECT datname FROM pg_database WHERE NOT datistemplate UNION \
         SELECT rolname FROM pg_roles WHERE rolname IN ('administrator', 'writer')",
    );
    assert_eq!(left.as_deref(), Some("postgres"));
}

#[test]
fn a_database_that_cannot_be_made_fails_its_stack_and_says_why() {
    let environment = Environment::new();
    let state = environment.up();
    let cloudformation = CloudFormation::at(&state.aws.endpoint_url);
    let name = "a".repeat(64);
    let template = json!({ "Resources": { "Cluster": { "Type": "AWS::RDS::DBCluster", "Properties": {
        "Engine": "aurora-postgresql", "DatabaseName": "ledger", "MasterUsername": format!("pg_{name}") } } } });
    assert_eq!(cloudformation.deploy("stores", &template), "ROLLBACK_COMPLETE");
    let reasons = cloudformation.reasons("stores").join("\n");
    assert!(reasons.contains("PostgreSQL refuses") && reasons.contains("reserved"), "{reasons}");
}
