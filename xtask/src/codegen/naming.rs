//! CloudFormation's spelling to Rust's.

/// Words of a CloudFormation name: `DBClusterARNs` is `DB`, `Cluster`, `ARNs`.
fn words(name: &str) -> Vec<String> {
    // Spellings whose inner capitals are no word boundaries.
    let name = name
        .replace("IPv", "Ipv")
        .replace("VPCs", "Vpcs")
        .replace("ARNs", "Arns")
        .replace("IDs", "Ids")
        .replace("ACLs", "Acls")
        .replace("DynamoDB", "Dynamodb")
        .replace("MemoryDB", "Memorydb");
    let characters: Vec<char> = name.chars().collect();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for (index, &c) in characters.iter().enumerate() {
        if !c.is_ascii_alphanumeric() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        let previous = index.checked_sub(1).map(|i| characters[i]);
        let next = characters.get(index + 1);
        let boundary = c.is_ascii_uppercase()
            && previous.is_some_and(|p| {
                p.is_ascii_lowercase()
                    || p.is_ascii_digit()
                    || (p.is_ascii_uppercase() && next.is_some_and(char::is_ascii_lowercase))
            });
        if boundary && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A type's or variant's name: `DBCluster` is `DbCluster`, `lowest-price` is `LowestPrice`.
pub(super) fn pascal(name: &str) -> String {
    let joined: String = words(name)
        .iter()
        .map(|word| {
            let mut characters = word.chars();
            match characters.next() {
                Some(first) => {
                    first.to_ascii_uppercase().to_string() + &characters.as_str().to_ascii_lowercase()
                }
                None => String::new(),
            }
        })
        .collect();
    match joined.chars().next() {
        None => "Empty".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("V{joined}"),
        Some(_) if joined == "Self" => "SelfValue".to_owned(),
        Some(_) => joined,
    }
}

/// A field's or method's name: `EnableDnsSupport` is `enable_dns_support`, `Type` is `type_`.
pub(super) fn snake(name: &str) -> String {
    const RESERVED: [&str; 16] = [
        "as", "async", "const", "continue", "else", "enum", "final", "for", "if", "in", "loop", "match",
        "ref", "static", "type", "use",
    ];
    let joined = words(name).iter().map(|word| word.to_ascii_lowercase()).collect::<Vec<_>>().join("_");
    match joined.as_str() {
        "new" => "new_".to_owned(),
        reserved if RESERVED.contains(&reserved) => format!("{reserved}_"),
        digit if digit.starts_with(|c: char| c.is_ascii_digit()) => format!("n{joined}"),
        _ => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_rust_does() {
        for (name, expected) in [
            ("VPC", "Vpc"),
            ("DBCluster", "DbCluster"),
            ("VPCEndpoint", "VpcEndpoint"),
            ("EIP", "Eip"),
            ("lowest-price", "LowestPrice"),
            ("kafka.m5.large", "KafkaM5Large"),
            ("2.0", "V20"),
            ("IPv4Prefix", "Ipv4Prefix"),
            ("SecurityGroupIDs", "SecurityGroupIds"),
        ] {
            assert_eq!(pascal(name), expected, "{name}");
        }
    }

    #[test]
    fn fields_read_as_rust_does_and_avoid_its_words() {
        for (name, expected) in [
            ("EnableDnsSupport", "enable_dns_support"),
            ("Type", "type_"),
            ("BrokerAZDistribution", "broker_az_distribution"),
            ("DataVolumeKMSKeyId", "data_volume_kms_key_id"),
            ("KmsKeyARNs", "kms_key_arns"),
            ("IPv6CidrBlock", "ipv6_cidr_block"),
        ] {
            assert_eq!(snake(name), expected, "{name}");
        }
    }
}
