//! The logs of parts and workloads, as files below the environment's directory hold them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::{layout::Layout, lifecycle::logs_of};

/// How often it is looked for more.
const PAUSE: Duration = Duration::from_millis(200);

/// How often it is looked for further files: replicas come and go with the load.
const LOOK: Duration = Duration::from_secs(2);

/// Which lines are shown. A line without a time of its own (what a panic says) goes with the one before.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those written since.
    pub since: Option<DateTime<Utc>>,
    /// Those with this text.
    pub text: Option<String>,
}

impl Selection {
    /// Whether a line is shown; `before` is whether the one before it was written in time.
    fn shows(&self, line: &[u8], in_time: &mut bool) -> bool {
        let text = String::from_utf8_lossy(line);
        if let Some(since) = self.since
            && let Some(written) = written(&text)
        {
            *in_time = written >= since;
        }
        *in_time && self.text.as_ref().is_none_or(|wanted| text.contains(wanted))
    }
}

/// When a structured line was written.
fn written(line: &str) -> Option<DateTime<Utc>> {
    let line: Json = serde_json::from_str(line).ok()?;
    let text = line.get("timestamp")?.as_str()?;
    Some(DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc))
}

/// A file that is read.
struct Reading {
    reader: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
    in_time: bool,
}

impl Reading {
    fn open(path: &PathBuf, selection: &Selection) -> Result<Self> {
        // What begins without a time is as old as the file.
        let in_time = selection.since.is_none();
        Ok(Self { reader: BufReader::new(File::open(path)?), begun: Vec::new(), in_time })
    }

    /// Shows what is there; whether that was anything.
    fn show(&mut self, selection: &Selection, out: &mut impl Write) -> Result<bool> {
        let mut any = false;
        while self.reader.read_until(b'\n', &mut self.begun)? > 0 {
            any = true;
            if self.begun.last() != Some(&b'\n') {
                break;
            }
            if selection.shows(&self.begun, &mut self.in_time) {
                out.write_all(&self.begun)?;
            }
            self.begun.clear();
        }
        Ok(any)
    }
}

/// Shows the logs of a part, or of all replicas of a workload: the oldest first, and with `follow` what comes, of
/// replicas that come as well.
///
/// # Errors
///
/// When there is no log, or nobody reads.
pub fn show(
    layout: &Layout,
    name: &str,
    selection: &Selection,
    follow: bool,
    out: &mut impl Write,
) -> Result<()> {
    let mut readings: BTreeMap<PathBuf, Reading> = BTreeMap::new();
    let files = logs_of(layout, name)?;
    if files.is_empty() {
        bail!("there is no log of `{name}` in {}", layout.root().join("logs").display());
    }
    for path in files {
        let mut reading = Reading::open(&path, selection)?;
        reading.show(selection, out)?;
        readings.insert(path, reading);
    }
    if !follow {
        // A process may end in the middle of a line.
        for reading in readings.values_mut().filter(|reading| !reading.begun.is_empty()) {
            if selection.shows(&reading.begun, &mut reading.in_time) {
                out.write_all(&reading.begun)?;
            }
        }
        return Ok(());
    }
    let mut looked = Instant::now();
    loop {
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            for path in logs_of(layout, name)? {
                if !readings.contains_key(&path) {
                    readings.insert(path.clone(), Reading::open(&path, selection)?);
                }
            }
        }
        let mut any = false;
        for reading in readings.values_mut() {
            any |= reading.show(selection, out)?;
        }
        if !any {
            out.flush()?;
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &str, selection: &Selection) -> String {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path(), None).unwrap();
        let logs = layout.root().join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        std::fs::write(logs.join("worker-1.log"), log).unwrap();
        let mut out = Vec::new();
        show(&layout, "worker", selection, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "starting\n{\"timestamp\":\"2026-01-01T10:00:00.5Z\",\"m\":\"one\"}\nof one\n\
        {\"timestamp\":\"2026-01-01T10:05:00Z\",\"m\":\"two\"}\nof two\nthe end";

    #[test]
    fn lines_are_shown_as_they_are() {
        assert_eq!(shown(LOG, &Selection::default()), LOG);
    }

    #[test]
    fn what_is_older_is_left_out_and_what_has_no_time_goes_with_the_line_before() {
        let since = DateTime::parse_from_rfc3339("2026-01-01T10:01:00Z").unwrap().with_timezone(&Utc);
        let selection = Selection { since: Some(since), text: None };
        assert_eq!(
            shown(LOG, &selection),
            "{\"timestamp\":\"2026-01-01T10:05:00Z\",\"m\":\"two\"}\nof two\nthe end"
        );
        let selection = Selection { since: Some(since), text: Some("of".to_owned()) };
        assert_eq!(shown(LOG, &selection), "of two\n");
        let selection = Selection { since: None, text: Some("one".to_owned()) };
        assert_eq!(shown(LOG, &selection).lines().count(), 2);
    }

    #[test]
    fn no_log_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path(), None).unwrap();
        std::fs::create_dir_all(layout.root().join("logs")).unwrap();
        let error = show(&layout, "nobody", &Selection::default(), false, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("there is no log of `nobody`"), "{error}");
    }
}
