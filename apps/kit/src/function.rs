//! The frame of a Lambda function: log, configuration errors told once, deadlines, panics as errors.

use std::{
    fmt::{Debug, Display},
    future::Future,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::{Serialize, de::DeserializeOwned};

use crate::{program, telemetry};

/// What is known of an invocation beside its event.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Its id in the logs.
    pub request_id: String,
    /// When Lambda ends it.
    pub deadline: Instant,
}

/// Runs a function: sets it up and serves its invocations. What keeps it from starting is told once, as an error,
/// and ends the process, which Lambda reports as a failed initialisation.
pub fn main<F, E>(function: F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    telemetry::init_log();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(panic = %panic, "a bug: the invocation fails");
    }));
    program::run(function).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

/// Serves invocations, one at a time, until Lambda ends the process. A handler that fails or panics fails its
/// invocation alone.
///
/// # Errors
///
/// When Lambda's runtime API cannot be reached.
pub async fn serve<A, R, E, H, Fut>(handler: H) -> Result<(), lambda_runtime::Error>
where
    A: DeserializeOwned,
    R: Serialize,
    E: Into<Diagnostic> + Debug,
    H: Fn(A, Invocation) -> Fut,
    Fut: Future<Output = Result<R, E>>,
{
    let handler = &handler;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<A>| {
        let invocation = Invocation {
            request_id: event.context.request_id.clone(),
            deadline: deadline(event.context.deadline(), SystemTime::now(), Instant::now()),
        };
        async move {
            let answer = handler(event.payload, invocation).await.map_err(Into::<Diagnostic>::into)?;
            serde_json::to_value(answer).map_err(|error| Diagnostic {
                error_type: "Answer".to_owned(),
                error_message: error.to_string(),
            })
        }
    }))
    .await
}

/// A time of the wall clock as one of the steady clock.
fn deadline(deadline: SystemTime, wall: SystemTime, steady: Instant) -> Instant {
    steady + deadline.duration_since(wall).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_as_far_away_on_either_clock() {
        let (wall, steady) = (SystemTime::now(), Instant::now());
        let ten = Duration::from_secs(10);
        assert_eq!(deadline(wall + ten, wall, steady), steady + ten);
        assert_eq!(deadline(wall - ten, wall, steady), steady, "over is over");
    }
}
