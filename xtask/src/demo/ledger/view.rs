//! What a person sees while the ledger's course runs.

use super::{
    Walked,
    figures::{Sample, severity},
};
use crate::live::{self, clock, sparkline};

/// Columns before a sparkline.
const LABEL: usize = 25;

/// What is shown.
pub(super) struct Scene<'a> {
    /// The step, in words.
    pub(super) step: &'a str,
    pub(super) walked: &'a Walked,
}

fn mode(sample: &Sample) -> &'static str {
    match sample.mode {
        0 => "GREEN",
        mode if mode == severity("RED") => "RED",
        _ => "YELLOW",
    }
}

impl Scene<'_> {
    fn now(&self) -> Sample {
        self.walked.samples.last().copied().unwrap_or_default()
    }
}

impl live::Scene for Scene<'_> {
    fn at_seconds(&self) -> f64 {
        self.now().at_seconds
    }

    fn block(&self, width: usize) -> Vec<String> {
        let now = self.now();
        let columns = width.saturating_sub(LABEL);
        let course = |value: fn(&Sample) -> f64| {
            sparkline(&self.walked.samples.iter().map(value).collect::<Vec<_>>(), columns)
        };
        let alarm = self.walked.alarm.as_deref().filter(|_| now.mode > 0).unwrap_or_default();
        let short: String = alarm.chars().take(56).collect();
        let blame = if short.is_empty() { String::new() } else { format!("{short} is to blame") };
        vec![
            format!("{}  {}", clock(now.at_seconds), self.step),
            format!(
                "  CPU      {:>6.0}%     {}",
                now.cpu.unwrap_or(0.0),
                course(|sample| sample.cpu.unwrap_or(0.0))
            ),
            format!("  mode     {:>6}      {blame}", mode(&now)),
            format!("  limit    {:>6}      {}", now.limit, course(|sample| sample.limit as f64)),
            format!("  sent     {:>6.0}/s    {}", now.in_per_second, course(|sample| sample.in_per_second)),
            format!("  written  {:>6.0}/s    {}", now.out_per_second, course(|sample| sample.out_per_second)),
            format!("  lag      {:>6.0}      {}", now.lag, course(|sample| sample.lag)),
            format!("  age p95  {:>6.2} s    {}", now.age_p95, course(|sample| sample.age_p95)),
        ]
    }

    fn line(&self) -> String {
        let now = self.now();
        format!(
            "{:>6}  CPU {:>3.0}%  {:<6}  {} chunks at once in {} writers  sent {:>5.0}/s  written {:>5.0}/s  lag {:>5.0}  age p95 {:>5.2} s",
            clock(now.at_seconds),
            now.cpu.unwrap_or(0.0),
            mode(&now),
            now.limit,
            now.writers,
            now.in_per_second,
            now.out_per_second,
            now.lag,
            now.age_p95
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::figures::tests::course, *};
    use crate::live::Scene as _;

    #[test]
    fn a_scene_reads_well() {
        let (mut samples, told, moments) = course();
        samples.truncate(30);
        let alarm = Some("floodgate-local-ledger-PressureCpu".to_owned());
        let walked = Walked { samples, told, moments, alarm, ..Walked::default() };
        let scene = Scene { step: "the neighbour is there", walked: &walked };
        insta::assert_snapshot!(format!("{}\n---\n{}", scene.block(120).join("\n"), scene.line()));
    }
}
