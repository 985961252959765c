//! What a user sees while it happens: a live line a stack on a terminal, plain lines otherwise, JSON lines
//! for machines.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};

use crate::events::ResourceEvent;

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Shows what happens.
pub struct Reporter {
    format: Format,
    begun: Instant,
    bars: MultiProgress,
    live: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Reporter {
    /// Begins now.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, begun: Instant::now(), bars: MultiProgress::new(), live: Mutex::default() }
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A line of its own.
    pub fn say(&self, text: &str) {
        match self.format {
            Format::Human => self.line(text),
            Format::Json => self.json(&json!({ "event": "message", "text": text })),
        }
    }

    /// A stack's action begins or ends.
    pub fn stack(&self, name: &str, state: &str, detail: &str) {
        match self.format {
            Format::Human => {
                self.line(&format!("{:>6.1}s  {name:<32} {state:<12} {detail}", self.elapsed().as_secs_f64()))
            }
            Format::Json => {
                self.json(&json!({ "event": "stack", "stack": name, "state": state, "detail": detail }))
            }
        }
    }

    /// An asset was packed or published.
    pub fn asset(&self, name: &str, state: &str, detail: &str) {
        match self.format {
            Format::Human => {
                self.line(&format!("{:>6.1}s  {name:<32} {state:<12} {detail}", self.elapsed().as_secs_f64()))
            }
            Format::Json => {
                self.json(&json!({ "event": "asset", "asset": name, "state": state, "detail": detail }))
            }
        }
    }

    /// What is under way and not worth a line: the live line of `what` on a terminal, until that is settled.
    pub fn progress(&self, what: &str, text: &str) {
        if self.format == Format::Human && std::io::stderr().is_terminal() {
            self.live_line(what, text.to_owned());
        }
    }

    fn live_line(&self, what: &str, text: String) {
        let mut live = self.live();
        let bar = live.entry(what.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(text);
    }

    /// A resource's event: the live line on a terminal, a line where it is worth one.
    pub fn resource(&self, stack: &str, event: &ResourceEvent, done: usize, total: usize) {
        match self.format {
            Format::Json => self.json(&json!({
                "event": "resource", "stack": stack, "logical_id": event.logical_id, "type": event.resource_type,
                "status": event.status, "reason": event.reason, "done": done, "total": total,
            })),
            Format::Human if std::io::stderr().is_terminal() => {
                self.live_line(stack, format!("{stack}  {done}/{total}  {} {}", event.status, event.logical_id));
            }
            Format::Human if event.status.ends_with("_COMPLETE") || event.status.ends_with("_FAILED") => {
                let reason = event.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                println!(
                    "{:>6.1}s  {stack:<32} {done:>3}/{total:<3} {:<18} {:<44} {}{reason}",
                    self.elapsed().as_secs_f64(),
                    event.status,
                    event.resource_type,
                    event.logical_id
                );
            }
            Format::Human => {}
        }
    }

    /// Ends a stack's live line.
    pub fn settle(&self, stack: &str) {
        if let Some(bar) = self.live().remove(stack) {
            bar.finish_and_clear();
        }
    }

    /// Ends all live lines.
    pub fn settle_all(&self) {
        let live = std::mem::take(&mut *self.live());
        for bar in live.into_values() {
            bar.finish_and_clear();
        }
    }

    /// A result for machines; people get text.
    pub fn result(&self, human: &str, json: &Json) {
        match self.format {
            Format::Human => self.line(human),
            Format::Json => self.json(json),
        }
    }

    /// What format it is.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line above the live ones.
    fn line(&self, text: &str) {
        self.bars.suspend(|| println!("{text}"));
    }

    fn json(&self, value: &Json) {
        println!("{value}");
    }
}
