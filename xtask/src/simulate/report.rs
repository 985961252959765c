//! What runs came to, in words, tables and JSON.

use std::fmt::Write;

use capacity::{
    cost::HOURS,
    scaling::stepper::{Scaling, Target},
    simulation::{Advice, Goal, Outcome, Recommendation, Sample, Scenario, Workload},
};
use serde_json::{Value as Json, json};

use super::chart::{Series, chart};

/// Rows of the table over time.
const ROWS: usize = 20;

/// Columns of the charts.
const COLUMNS: usize = 60;

/// Changes of the replicas that are told.
const CHANGES: usize = 12;

/// Percentiles of the ages.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("max", 100.0)];

/// A scaler with its run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) scaling: Scaling,
    pub(super) outcome: Outcome,
}

/// All that is told.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) environment: String,
    pub(super) scenario_name: String,
    pub(super) scenario: Scenario,
    pub(super) workload: Workload,
    pub(super) goal: Goal,
    /// The first is told in full.
    pub(super) runs: Vec<Run>,
    pub(super) recommendation: Recommendation,
    /// Whether the recommended settings stand in the comparison.
    pub(super) compare: bool,
    pub(super) usd_per_replica_hour: f64,
}

/// A number with as many digits as a reader needs.
pub(super) fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Minutes and seconds from the beginning.
pub(super) fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A scaler's setting in one line.
pub(crate) fn setting(scaling: &Scaling) -> String {
    let object = &scaling.object;
    let target = match scaling.target {
        Target::Lag => format!("lag / {}", scaling.trigger.lag_threshold),
        Target::Rate(target) => format!(
            "(arrival rate + lag / {} s) / {}",
            target.drain_seconds, target.messages_per_second_per_replica
        ),
    };
    format!(
        "{target}; {} to {} replicas; windows {} s up, {} s down",
        object.min_replica_count,
        object.max_replica_count,
        object.behavior.scale_up.stabilization_window_seconds,
        object.behavior.scale_down.stabilization_window_seconds
    )
}

/// The same as KEDA takes it.
fn keda(scaling: &Scaling) -> Json {
    let object = &scaling.object;
    let mut json = json!({
        "minReplicaCount": object.min_replica_count,
        "maxReplicaCount": object.max_replica_count,
        "pollingInterval": object.polling_interval_seconds,
        "scaleUpStabilizationWindowSeconds": object.behavior.scale_up.stabilization_window_seconds,
        "scaleDownStabilizationWindowSeconds": object.behavior.scale_down.stabilization_window_seconds,
        "lagThreshold": scaling.trigger.lag_threshold,
    });
    if let (Target::Rate(target), Some(map)) = (scaling.target, json.as_object_mut()) {
        map.insert("formula".to_owned(), target.formula().into());
        map.insert("target".to_owned(), target.messages_per_second_per_replica.into());
    }
    json
}

/// Samples drawn together into so many at most: rates are averaged, the worst ages count, states are the last.
fn together(samples: &[Sample], most: usize) -> Vec<Sample> {
    let size = samples.len().div_ceil(most).max(1);
    let worst = |chunk: &[Sample], age: fn(&Sample) -> f64| chunk.iter().map(age).fold(0.0, f64::max);
    let merge = |chunk: &[Sample]| {
        let count = chunk.len() as f64;
        chunk.last().map(|last| Sample {
            messages_per_second: chunk.iter().map(|sample| sample.messages_per_second).sum::<f64>() / count,
            processed_per_second: chunk.iter().map(|sample| sample.processed_per_second).sum::<f64>() / count,
            oldest_seconds: worst(chunk, |sample| sample.oldest_seconds),
            age_p50: worst(chunk, |sample| sample.age_p50),
            age_p95: worst(chunk, |sample| sample.age_p95),
            age_p99: worst(chunk, |sample| sample.age_p99),
            ..*last
        })
    };
    samples.chunks(size).filter_map(merge).collect()
}

impl Report {
    /// What a run's replicas would cost a month, if it went on like that.
    fn usd_per_month(&self, outcome: &Outcome) -> f64 {
        let mean = outcome.replica_seconds() / outcome.seconds.max(1) as f64;
        mean * HOURS * self.usd_per_replica_hour
    }

    fn within(&self, outcome: &Outcome) -> f64 {
        outcome.ages.percent_within(self.goal.within_seconds)
    }

    pub(super) fn text(&self) -> String {
        let workload = &self.workload;
        let mut text = format!(
            "{} on {}: {}\n{} of virtual time; {} partitions, {} messages/s a replica, start-up {} s\n",
            self.scenario_name,
            self.environment,
            self.scenario.description,
            clock(self.scenario.seconds()),
            workload.partitions,
            number(workload.messages_per_second_per_replica()),
            self.scenario.startup_seconds,
        );
        for run in &self.runs {
            text += &format!("{}: {}\n", run.name, setting(&run.scaling));
        }
        if let Some(first) = self.runs.first() {
            text += &format!("\n{}\n{}", first.name, table(&together(&first.outcome.samples, ROWS)));
        }
        text += &self.charts();
        if let Some(first) = self.runs.first() {
            text += &changes(&first.outcome);
        }
        text + &self.comparison() + &self.recommended()
    }

    fn charts(&self) -> String {
        let draw = |title: &str, value: fn(&Sample) -> f64, all: bool| {
            let runs = if all { &self.runs[..] } else { self.runs.get(..1).unwrap_or_default() };
            let values: Vec<Vec<f64>> = runs
                .iter()
                .map(|run| together(&run.outcome.samples, COLUMNS).iter().map(value).collect())
                .collect();
            let series: Vec<Series<'_>> =
                values.iter().zip(['o', 'p', 'q']).map(|(values, mark)| Series { mark, values }).collect();
            format!("\n{}", chart(title, &series, self.scenario.seconds()))
        };
        let names: Vec<&str> = self.runs.iter().map(|run| run.name.as_str()).collect();
        let key = match names[..] {
            [one, other] => format!(" (o {one}, p {other}, * both)"),
            _ => String::new(),
        };
        draw("messages/s that arrive", |sample| sample.messages_per_second, false)
            + &draw(&format!("replicas in the group{key}"), |sample| f64::from(sample.ready), true)
            + &draw(&format!("age of the oldest that waits, s{key}"), |sample| sample.oldest_seconds, true)
    }

    fn comparison(&self) -> String {
        let mut columns: Vec<(&str, &Outcome)> =
            self.runs.iter().map(|run| (run.name.as_str(), &run.outcome)).collect();
        if self.compare {
            columns.push(("best by rate", &self.recommendation.by_rate.outcome));
            columns.push(("best by lag", &self.recommendation.by_lag.outcome));
        }
        let mut text = format!("\n{:<28}", "");
        for (name, _) in &columns {
            text += &format!("{name:>14}");
        }
        text += "\n";
        let mut row = |name: &str, value: &dyn Fn(&Outcome) -> String| {
            // Writing to a string does not fail.
            let _ = write!(text, "  {name:<26}");
            for (_, outcome) in &columns {
                let _ = write!(text, "{:>14}", value(outcome));
            }
            text.push('\n');
        };
        for (name, percent) in PERCENTILES {
            row(&format!("age {name}, s"), &|outcome| format!("{:.2}", outcome.ages.percentile(percent)));
        }
        row(&format!("within {} s, %", number(self.goal.within_seconds)), &|outcome| {
            format!("{:.2}", self.within(outcome))
        });
        row("messages", &|outcome| outcome.sent.to_string());
        row("still waiting at the end", &|outcome| (outcome.sent - outcome.processed).to_string());
        row("dead letters", &|outcome| outcome.dead_letters.to_string());
        row("greatest lag, messages", &|outcome| outcome.max_lag.to_string());
        row("most replicas", &|outcome| outcome.max_replicas.to_string());
        row("changes of the replicas", &|outcome| outcome.changes.len().to_string());
        row("rebalances", &|outcome| outcome.rebalances.to_string());
        row("replica-seconds", &|outcome| format!("{:.0}", outcome.replica_seconds()));
        row("USD a month at this pace", &|outcome| format!("{:.2}", self.usd_per_month(outcome)));
        text
    }

    fn recommended(&self) -> String {
        let Recommendation { by_lag, by_rate, tried } = &self.recommendation;
        let goal = &self.goal;
        let mut text = format!(
            "\n{}% within {} s: of {tried} settings, the cheapest that keeps it\n",
            number(goal.percent),
            number(goal.within_seconds)
        );
        for (name, advice) in [("by rate", by_rate), ("by lag", by_lag)] {
            text += &self.advice(name, advice);
        }
        if !by_lag.is_met && !by_rate.is_met {
            text += &format!(
                "  A batch takes {} s and a new replica {} s: a shorter batch, more replicas at least or a longer \
                 time is needed.\n",
                number(self.workload.batch_seconds()),
                self.scenario.startup_seconds
            );
        }
        text
    }

    fn advice(&self, name: &str, advice: &Advice) -> String {
        let kept = if advice.is_met { "" } else { "none keeps it; nearest is " };
        let mut text = format!(
            "  {name}: {kept}{}\n    {:.2}% within {} s, {:.0} replica-seconds, {:.2} USD a month\n",
            setting(&advice.scaling),
            self.within(&advice.outcome),
            number(self.goal.within_seconds),
            advice.outcome.replica_seconds(),
            self.usd_per_month(&advice.outcome)
        );
        if let Target::Rate(target) = advice.scaling.target {
            text += &format!(
                "    KEDA scalingModifiers: formula \"{}\", target \"{}\"\n",
                target.formula(),
                target.messages_per_second_per_replica
            );
        }
        text
    }

    pub(super) fn json(&self) -> Json {
        let advice = |advice: &Advice| {
            json!({
                "keeps_the_service_level": advice.is_met,
                "keda": keda(&advice.scaling),
                "outcome": self.outcome(&advice.outcome),
            })
        };
        let runs: Vec<Json> = self
            .runs
            .iter()
            .map(|run| {
                let mut json = self.outcome(&run.outcome);
                if let Some(map) = json.as_object_mut() {
                    map.insert("name".to_owned(), run.name.as_str().into());
                    map.insert("keda".to_owned(), keda(&run.scaling));
                    map.insert("samples".to_owned(), samples(&run.outcome));
                    map.insert("changes".to_owned(), changes_json(&run.outcome));
                }
                json
            })
            .collect();
        json!({
            "environment": self.environment,
            "scenario": {
                "name": self.scenario_name, "description": self.scenario.description,
                "seconds": self.scenario.seconds(),
            },
            "service_level": {"within_seconds": self.goal.within_seconds, "percent": self.goal.percent},
            "runs": runs,
            "recommendation": {
                "tried": self.recommendation.tried,
                "by_rate": advice(&self.recommendation.by_rate),
                "by_lag": advice(&self.recommendation.by_lag),
            },
        })
    }

    fn outcome(&self, outcome: &Outcome) -> Json {
        let ages: serde_json::Map<String, Json> = PERCENTILES
            .iter()
            .map(|(name, percent)| ((*name).to_owned(), outcome.ages.percentile(*percent).into()))
            .collect();
        json!({
            "age_seconds": ages,
            "percent_within": self.within(outcome),
            "sent": outcome.sent,
            "processed": outcome.processed,
            "dead_letters": outcome.dead_letters,
            "max_lag": outcome.max_lag,
            "max_replicas": outcome.max_replicas,
            "rebalances": outcome.rebalances,
            "replica_seconds": outcome.replica_seconds(),
            "usd_per_month": self.usd_per_month(outcome),
        })
    }
}

fn table(samples: &[Sample]) -> String {
    let mut text = format!(
        "{:>8}{:>10}{:>10}{:>10}{:>10}{:>8}{:>10}\n",
        "time", "in/s", "done/s", "lag", "replicas", "ready", "oldest s"
    );
    for sample in samples {
        text += &format!(
            "{:>8}{:>10.0}{:>10.0}{:>10}{:>10}{:>8}{:>10.1}\n",
            clock(sample.at_seconds),
            sample.messages_per_second,
            sample.processed_per_second,
            sample.lag,
            sample.replicas,
            sample.ready,
            sample.oldest_seconds
        );
    }
    text
}

fn changes(outcome: &Outcome) -> String {
    let mut text = String::from("\nwhy the replicas changed\n");
    for change in outcome.changes.iter().take(CHANGES) {
        text += &format!("{:>8}  {}\n", clock(change.at_seconds), change.reason);
    }
    match outcome.changes.len() {
        0 => text += "          they did not\n",
        all if all > CHANGES => text += &format!("          and {} times more\n", all - CHANGES),
        _ => (),
    }
    text
}

fn samples(outcome: &Outcome) -> Json {
    let sample = |sample: &Sample| {
        json!({
            "at_seconds": sample.at_seconds, "messages_per_second": sample.messages_per_second,
            "processed_per_second": sample.processed_per_second, "lag": sample.lag, "replicas": sample.replicas,
            "ready": sample.ready, "oldest_seconds": sample.oldest_seconds, "age_p50": sample.age_p50,
            "age_p95": sample.age_p95, "age_p99": sample.age_p99, "replica_seconds": sample.replica_seconds,
        })
    };
    outcome.samples.iter().map(sample).collect()
}

fn changes_json(outcome: &Outcome) -> Json {
    let change = |change: &capacity::simulation::Change| json!({"at_seconds": change.at_seconds, "from": change.from, "to": change.to, "reason": change.reason});
    outcome.changes.iter().map(change).collect()
}
