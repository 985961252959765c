//! What an account must allow.

use std::{path::Path, process::Command};

use cfn::{Assembly, Json};

use super::{Finding, machine::Machine};
use crate::programs;

/// A quota of AWS's, for accounts that never asked for another one.
struct Quota {
    what: &'static str,
    /// As Service Quotas knows it.
    code: &'static str,
    /// What an account has by default.
    default: u64,
    /// What an environment needs of it.
    needed: fn(&Assembly) -> u64,
}

/// The quotas that an environment of this platform comes near to, with the defaults of the services' documentation. What
/// an account really has only Service Quotas tells, and of functions Lambda itself, which is asked.
const QUOTAS: [Quota; 7] = [
    Quota { what: "VPCs", code: "vpc L-F678F1CE", default: 5, needed: |all| count(all, "AWS::EC2::VPC") },
    Quota {
        what: "elastic IPs",
        code: "ec2 L-0263D0A3",
        default: 5,
        needed: |all| count(all, "AWS::EC2::EIP"),
    },
    Quota {
        what: "NAT gateways a zone",
        code: "vpc L-FE5A380F",
        default: 5,
        needed: |all| count(all, "AWS::EC2::NatGateway").min(1),
    },
    Quota {
        what: "EKS clusters",
        code: "eks L-1194D53C",
        default: 100,
        needed: |all| count(all, "AWS::EKS::Cluster"),
    },
    Quota { what: "MSK brokers", code: "kafka, brokers per account", default: 90, needed: brokers },
    Quota {
        what: "RDS instances",
        code: "rds L-7B6409FD",
        default: 40,
        needed: |all| count(all, "AWS::RDS::DBInstance"),
    },
    Quota { what: CONCURRENCY, code: "lambda L-B99A9384", default: 1000, needed: concurrency },
];

/// What Lambda itself tells of an account.
const CONCURRENCY: &str = "Lambda concurrency";

/// What Lambda keeps for functions that reserve nothing.
const UNRESERVED: u64 = 100;

/// What a single environment may take of a quota before somebody should look.
const SHARE: f64 = 0.8;

fn resources<'a>(assembly: &'a Assembly, kind: &'a str) -> impl Iterator<Item = &'a Json> {
    assembly
        .templates
        .values()
        .filter_map(|template| template.get("Resources")?.as_object())
        .flat_map(|resources| resources.values())
        .filter(move |resource| resource.get("Type").and_then(Json::as_str) == Some(kind))
}

fn count(assembly: &Assembly, kind: &str) -> u64 {
    resources(assembly, kind).count() as u64
}

fn sum(assembly: &Assembly, kind: &str, pointer: &str) -> u64 {
    resources(assembly, kind).filter_map(|resource| resource.pointer(pointer)?.as_u64()).sum()
}

fn brokers(assembly: &Assembly) -> u64 {
    sum(assembly, "AWS::MSK::Cluster", "/Properties/NumberOfBrokerNodes")
}

fn concurrency(assembly: &Assembly) -> u64 {
    match sum(assembly, "AWS::Lambda::Function", "/Properties/ReservedConcurrentExecutions") {
        0 => 0,
        reserved => reserved + UNRESERVED,
    }
}

/// How a quota's finding is called.
fn name(quota: &str) -> String {
    format!("quota: {quota}")
}

/// What the rendered stacks need, against what accounts have by default; of each it says that it is the default. What
/// `asked` has of the account itself is not told again.
pub(super) fn quotas(assembly: &Assembly, asked: &[Finding]) -> Vec<Finding> {
    let region = &assembly.manifest.region;
    QUOTAS
        .iter()
        .map(|quota| (quota, (quota.needed)(assembly)))
        .map(|(quota, needed)| (quota, needed, name(quota.what)))
        .filter(|(_, needed, what)| *needed > 0 && !asked.iter().any(|finding| finding.what == *what))
        .map(|(quota, needed, what)| {
            let found = format!(
                "{needed} needed; the documented default is {} in {region}, what this account has was not asked",
                quota.default
            );
            if needed as f64 <= quota.default as f64 * SHARE {
                return Finding::ok(&what, found);
            }
            let fix = format!(
                "look in Service Quotas ({}) what the account has, and ask for more before you deploy",
                quota.code
            );
            Finding::warn(&what, found, fix)
        })
        .collect()
}

/// Whose credentials are in use, and whether they are of the environment's account. The deploy engine asks, if it is
/// built.
pub(super) fn credentials(root: &Path, machine: &Machine, assembly: &Assembly) -> Vec<Finding> {
    let engine = programs::target_directory(root).join("debug/deploy-engine");
    let manifest = &assembly.manifest;
    if engine.is_file() {
        let directory = crate::synth::directory(root, &manifest.environment);
        if assembly.write(&directory).is_err() {
            return vec![Finding::fail("credentials", "the assembly cannot be written", "is the disk full?")];
        }
        let output =
            Command::new(engine).arg("--assembly").arg(directory).args(["--json", "whoami"]).output();
        return match output {
            Ok(output) if output.status.success() => {
                answered(&String::from_utf8_lossy(&output.stdout), concurrency(assembly))
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let text = text.trim().trim_start_matches("error: ").replace('\n', " ");
                vec![Finding::fail("credentials", text, sign_in(&manifest.account))]
            }
            Err(error) => {
                vec![Finding::fail("credentials", error.to_string(), "build it again: cargo build")]
            }
        };
    }
    if let Some(account) =
        machine.says("aws", &["sts", "get-caller-identity", "--query", "Account", "--output", "text"])
    {
        let found = format!("of the account {account}");
        return vec![if account == manifest.account {
            Finding::ok("credentials", found)
        } else {
            let found = format!("{found}, {} is in {}", manifest.environment, manifest.account);
            Finding::fail("credentials", found, sign_in(&manifest.account))
        }];
    }
    vec![Finding::warn(
        "credentials",
        "not looked at: the deploy engine is not built, and the `aws` program gives none",
        format!("`cargo xtask status --env {}` builds it and tells", manifest.environment),
    )]
}

fn sign_in(account: &str) -> String {
    format!(
        "sign in to the account {account} (`aws sso login`, AWS_PROFILE, or a token), or correct the environment's file"
    )
}

/// What the engine tells: whose credentials these are, and what Lambda allows.
fn answered(text: &str, needed: u64) -> Vec<Finding> {
    let answer: Json = serde_json::from_str(text.trim()).unwrap_or_default();
    let of = |key: &str| answer.get(key).and_then(Json::as_str).unwrap_or("unknown").to_owned();
    let mut findings = vec![
        Finding::ok("credentials", of("arn")),
        Finding::ok("region", format!("{} answers", of("region"))),
    ];
    if let Some(allowed) = answer.get("lambda_concurrency").and_then(Json::as_u64)
        && needed > 0
    {
        let (what, found) = (
            name(CONCURRENCY),
            format!("{needed} needed; this account's own figure is {allowed}, as Lambda says"),
        );
        findings.push(if needed <= allowed {
            Finding::ok(&what, found)
        } else {
            let fix = "ask for more in Service Quotas (lambda L-B99A9384); new accounts begin with 10";
            Finding::fail(&what, found, fix)
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_prod_needs_is_counted_from_its_templates() {
        let root = crate::workspace::root();
        let environment = platform::Environment::load(&root, "prod").unwrap();
        let assembly = platform::render(&environment).unwrap();
        assert_eq!(count(&assembly, "AWS::EC2::VPC"), 1);
        assert_eq!(brokers(&assembly) % u64::from(environment.network.zones), 0);
        assert!(brokers(&assembly) >= 3 && concurrency(&assembly) > UNRESERVED);
        let findings = quotas(&assembly, &[]);
        let brokers = findings.iter().find(|finding| finding.what == "quota: MSK brokers").unwrap();
        assert!(brokers.found.contains("documented default is 90"), "{brokers:?}");
        assert!(findings.iter().all(|finding| finding.found.contains("was not asked")), "{findings:#?}");
        // What Lambda says of the account stands alone.
        let asked = answered(r#"{"lambda_concurrency": 5000}"#, concurrency(&assembly));
        let is_lambda = |finding: &&Finding| finding.what == "quota: Lambda concurrency";
        assert_eq!(findings.iter().filter(is_lambda).count(), 1);
        assert_eq!(quotas(&assembly, &asked).iter().filter(is_lambda).count(), 0);
        let own = asked.iter().find(is_lambda).unwrap();
        assert!(own.found.contains("this account's own figure is 5000"), "{own:?}");
    }

    #[test]
    fn an_account_that_allows_too_little_fails() {
        let text = r#"{"arn": "arn:aws:sts::1:assumed-role/dev/ada", "region": "eu-west-1", "lambda_concurrency": 10}"#;
        let verdict = |needed| answered(text, needed).last().map(|finding| finding.verdict);
        assert_eq!(verdict(10), Some(Verdict::Ok));
        assert_eq!(verdict(11), Some(Verdict::Fail));
        assert_eq!(answered(text, 0).len(), 2);
    }
}
