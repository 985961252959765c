//! The Lambda function `ledger-migrate`. Whatever it is invoked with, it does what there is to do.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use ledger_migrate::run;
use serde_json::Value as Json;
use worker_contract::ledger::MigrateConfiguration;
use worker_kit::function;

fn main() -> ExitCode {
    function::main(async {
        let configuration = MigrateConfiguration::from_environment(|name| std::env::var(name).ok())?;
        let aws = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        function::serve(async |_: Json, _| run(&configuration, &aws).await)
            .await
            .map_err(|error| anyhow!(error))?;
        Result::<()>::Ok(())
    })
}
