//! What a user sees while it happens: a live line a stack on a terminal, plain lines otherwise, JSON lines
//! for machines.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
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
    live: Mutex<Option<ProgressBar>>,
}

impl Reporter {
    /// Begins now.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, begun: Instant::now(), live: Mutex::new(None) }
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

    /// What is under way and not worth a line: the live line on a terminal.
    pub fn progress(&self, text: &str) {
        if self.format == Format::Human && std::io::stderr().is_terminal() {
            self.live_line(text.to_owned());
        }
    }

    fn live_line(&self, text: String) {
        let mut live = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = live.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
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
                self.live_line(format!("{stack}  {done}/{total}  {} {}", event.status, event.logical_id));
            }
            Format::Human if event.status.ends_with("_COMPLETE") || event.status.ends_with("_FAILED") => {
                let reason = event.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
                println!(
                    "{:>6.1}s    {done:>3}/{total:<3} {:<18} {:<44} {}{reason}",
                    self.elapsed().as_secs_f64(),
                    event.status,
                    event.resource_type,
                    event.logical_id
                );
            }
            Format::Human => {}
        }
    }

    /// Ends the live line.
    pub fn settle(&self) {
        if let Some(bar) = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
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

    fn line(&self, text: &str) {
        self.settle();
        println!("{text}");
    }

    fn json(&self, value: &Json) {
        println!("{value}");
    }
}
