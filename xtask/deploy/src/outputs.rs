//! The outputs of stacks, for people, for scripts and for shells. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::{Result, bail};

/// How outputs are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table.
    #[default]
    Text,
    /// Stack -> output -> value.
    Json,
    /// Lines that a shell evaluates: `export LEDGER_TOPIC='…'`.
    Env,
    /// Lines of a `.env` file: `LEDGER_TOPIC=…`.
    Dotenv,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "env" => Ok(Self::Env),
            "dotenv" => Ok(Self::Dotenv),
            _ => Err(format!("`{text}` is no format; there are: text, json, env, dotenv")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Env => "env",
            Self::Dotenv => "dotenv",
        })
    }
}

/// A stack's id and its outputs by name.
pub type Outputs = (String, BTreeMap<String, String>);

/// Takes what looks like a secret out and gives its names, as `STACK/OUTPUT`. None should be an output at all, because
/// whoever may look at a stack sees it; none is put into a shell's history or a file either.
pub fn withhold(all: &mut [Outputs]) -> Vec<String> {
    let mut withheld = Vec::new();
    for (stack, outputs) in all {
        outputs.retain(|name, value| {
            let secret = is_secret(name, value);
            if secret {
                withheld.push(format!("{stack}/{name}"));
            }
            !secret
        });
    }
    withheld
}

/// Whether an output is a secret by its name. Where one lies (an ARN, a path) is none.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_lowercase();
    let named =
        ["password", "secret", "token", "privatekey", "credential"].iter().any(|word| name.contains(word));
    let place = value.starts_with("arn:")
        || value.starts_with('/')
        || ["arn", "name", "id", "path"].iter().any(|end| name.ends_with(end));
    named && !place
}

/// Prints them.
///
/// # Errors
///
/// When two outputs would be one variable.
pub fn render(all: &[Outputs], format: Format) -> Result<String> {
    let lines =
        all.iter().flat_map(|(stack, outputs)| outputs.iter().map(move |(name, value)| (stack, name, value)));
    let mut text = String::new();
    match format {
        Format::Text => {
            for (stack, name, value) in lines {
                text += &format!("{stack:<10} {name:<44} {value}\n");
            }
        }
        Format::Json => {
            let all: BTreeMap<&String, &BTreeMap<String, String>> =
                all.iter().map(|(stack, outputs)| (stack, outputs)).collect();
            text = serde_json::to_string_pretty(&all)? + "\n";
        }
        Format::Env | Format::Dotenv => {
            let mut taken: BTreeMap<String, String> = BTreeMap::new();
            for (stack, name, value) in lines {
                let variable = variable(stack, name);
                let of = format!("{stack}/{name}");
                if let Some(other) = taken.insert(variable.clone(), of.clone()) {
                    bail!(
                        "{other} and {of} would both be {variable}; print one of the stacks (`--stack`), or take `--format json`"
                    );
                }
                text += &match format {
                    Format::Env => format!("export {variable}={}\n", shell(value)),
                    _ => format!("{variable}={}\n", dotenv(value)),
                };
            }
        }
    }
    Ok(text)
}

/// The variable of an output: `ledger-database` and `ProxyEndpoint` are `LEDGER_DATABASE_PROXY_ENDPOINT`.
fn variable(stack: &str, output: &str) -> String {
    let mut name = String::new();
    let mut before = '_';
    let letters: Vec<char> = stack.chars().chain(['_']).chain(output.chars()).collect();
    for (at, &letter) in letters.iter().enumerate() {
        let begins = letter.is_ascii_uppercase()
            && (before.is_ascii_lowercase()
                || before.is_ascii_digit()
                || (before.is_ascii_uppercase()
                    && letters.get(at + 1).is_some_and(char::is_ascii_lowercase)));
        if begins {
            name.push('_');
        }
        name.push(if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' });
        before = letter;
    }
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// A word of a POSIX shell with this value, whatever that holds.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// A value of a `.env` file. What reads such files does not agree on escapes, so most values have none: between single
/// quotes all take a value as it is. One with a single quote is put between double quotes, with the escapes of a shell.
fn dotenv(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:,@+=".contains(letter);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    let mut quoted = String::from("\"");
    for letter in value.chars() {
        if matches!(letter, '\\' | '"' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn outputs(stack: &str, pairs: &[(&str, &str)]) -> Outputs {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        (stack.to_owned(), pairs.collect())
    }

    #[test]
    fn variables_are_named_by_stack_and_output() {
        for (stack, output, name) in [
            ("kafka", "BootstrapServers", "KAFKA_BOOTSTRAP_SERVERS"),
            ("ledger-database", "ProxyEndpoint", "LEDGER_DATABASE_PROXY_ENDPOINT"),
            ("network", "VPCId", "NETWORK_VPC_ID"),
            ("network", "Subnet2Id", "NETWORK_SUBNET2_ID"),
            ("2nd", "X", "_2ND_X"),
        ] {
            assert_eq!(variable(stack, output), name);
        }
    }

    #[test]
    fn each_format_has_its_own_quotes() {
        let all = [outputs("a", &[("Empty", ""), ("Plain", "arn:aws:x:y/z"), ("Quote", "it's $HOME")])];
        assert_eq!(
            render(&all, Format::Env).unwrap(),
            "export A_EMPTY=''\nexport A_PLAIN='arn:aws:x:y/z'\nexport A_QUOTE='it'\\''s $HOME'\n"
        );
        assert_eq!(
            render(&all, Format::Dotenv).unwrap(),
            "A_EMPTY=''\nA_PLAIN=arn:aws:x:y/z\nA_QUOTE=\"it's \\$HOME\"\n"
        );
        let json: serde_json::Value = serde_json::from_str(&render(&all, Format::Json).unwrap()).unwrap();
        assert_eq!(json["a"]["Quote"], "it's $HOME");
        assert!(render(&all, Format::Text).unwrap().contains("a          Plain "));
    }

    #[test]
    fn one_variable_of_two_outputs_is_refused() {
        let all = [outputs("a-b", &[("C", "1")]), outputs("a", &[("BC", "2"), ("B_C", "3")])];
        let error = render(&all, Format::Env).unwrap_err().to_string();
        assert!(error.contains("a-b/C") && error.contains("a/B_C") && error.contains("A_B_C"), "{error}");
        assert!(render(&all, Format::Json).is_ok());
    }

    #[test]
    fn what_looks_like_a_secret_is_withheld_and_where_it_lies_is_not() {
        let mut all = [outputs(
            "database",
            &[
                ("MasterPassword", "hunter2"),
                ("SecretArn", "arn:aws:secretsmanager:x"),
                ("Endpoint", "h:5432"),
                ("ApiToken", "t"),
            ],
        )];
        assert_eq!(withhold(&mut all), ["database/ApiToken", "database/MasterPassword"]);
        assert_eq!(all[0].1.keys().collect::<Vec<_>>(), ["Endpoint", "SecretArn"]);
    }

    /// What a shell makes of lines.
    fn read_by_a_shell(lines: &str) -> String {
        let script = format!("{lines}printf %s \"$S_V\"");
        let output = Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_shell_reads_nasty_values_as_they_are() {
        for value in [
            "",
            " ",
            "'",
            "''",
            "\"",
            "\\",
            "\\'",
            "$(touch /tmp/x)",
            "`id`",
            "$HOME",
            "a\nb",
            "a\\nb",
            "é ☃",
            "#x",
            "~",
            "!",
            "a;b",
            "a&b|c",
            "*",
            "-n",
            "it's \"$HOME\" \\ `id`\n#'",
        ] {
            let all = [outputs("s", &[("V", value)])];
            assert_eq!(read_by_a_shell(&render(&all, Format::Env).unwrap()), value);
            assert_eq!(read_by_a_shell(&render(&all, Format::Dotenv).unwrap()), value);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_shell_reads_every_value_as_it_is(value in "[ -~\n\t'\"$`\\\\]{0,24}") {
            let all = [outputs("s", &[("V", value.as_str())])];
            prop_assert_eq!(read_by_a_shell(&render(&all, Format::Env).unwrap()), value.clone());
            prop_assert_eq!(read_by_a_shell(&render(&all, Format::Dotenv).unwrap()), value);
        }
    }
}
