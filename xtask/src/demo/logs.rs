//! The logs of consumers that come and go, read as they grow.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::journal::{Batch, Handover};

/// Reads what is written from now on.
pub(super) struct Tail {
    directory: PathBuf,
    workload: String,
    /// By file, what of it was read.
    read: BTreeMap<PathBuf, u64>,
}

impl Tail {
    /// Of a workload's processes, those to come as well.
    pub(super) fn from_now(directory: &Path, workload: &str) -> Result<Self> {
        let mut tail =
            Self { directory: directory.to_owned(), workload: workload.to_owned(), read: BTreeMap::new() };
        for file in tail.files()? {
            let length = fs::metadata(&file).with_context(|| file.display().to_string())?.len();
            tail.read.insert(file, length);
        }
        Ok(tail)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("no logs in {}", self.directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let number = stem.strip_prefix(&self.workload).and_then(|rest| rest.strip_prefix('-'));
            if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Adds what was logged since the last time.
    pub(super) fn read(&mut self, batches: &mut Vec<Batch>, handovers: &mut Vec<Handover>) -> Result<()> {
        for path in self.files()? {
            let from = self.read.get(&path).copied().unwrap_or(0);
            let mut file = File::open(&path).with_context(|| path.display().to_string())?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            // Half a line is read once it is whole.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let text = String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).into_owned();
            let consumer =
                path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            batches.extend(text.lines().filter_map(|line| Batch::parse(&consumer, line)));
            handovers.extend(text.lines().filter_map(Handover::parse));
            self.read.insert(path, from + whole as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_logged_from_now_on_is_read_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let line = |at: u64| {
            format!(
                "{{\"message\":\"batch written\",\"at_ms\":{at},\"offsets\":\"0:{at}-{at}\",\"ages_ms\":\"1\"}}\n"
            )
        };
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        write("consumer-1.log", &line(1));
        write("consumer-proxy.log", &line(1));
        let mut tail = Tail::from_now(directory.path(), "consumer").unwrap();
        let (mut batches, mut handovers) = (Vec::new(), Vec::new());
        tail.read(&mut batches, &mut handovers).unwrap();
        assert_eq!(batches, []);
        let half = line(3);
        write("consumer-1.log", &format!("{}not json\n{}", line(2), &half[..20]));
        let taken =
            r#"{"timestamp":"2026-11-21T12:00:00Z","message":"partitions taken over","partitions":"[4]"}"#;
        write("consumer-12.log", &format!("{}{taken}\n", line(9)));
        tail.read(&mut batches, &mut handovers).unwrap();
        let read: Vec<(String, u64)> =
            batches.iter().map(|batch| (batch.consumer.clone(), batch.at_ms)).collect();
        assert_eq!(read, [("consumer-1".to_owned(), 2), ("consumer-12".to_owned(), 9)]);
        write("consumer-1.log", &half[20..]);
        tail.read(&mut batches, &mut handovers).unwrap();
        assert_eq!((batches.len(), handovers.len()), (3, 1));
    }
}
