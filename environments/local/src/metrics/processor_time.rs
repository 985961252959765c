//! How much of the processors a server and its children use, from `/proc`.

use std::{fs, time::Instant};

/// Ticks of processor time a second in `/proc`: part of Linux's interface on all architectures that Rust's standard
/// library is shipped for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processor time of a process, from `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// Of its own, and of the children that it has waited for (fields 14 to 17).
    ticks: u64,
}

/// Follows a server from one look to the next.
#[derive(Debug, Default)]
pub(super) struct ProcessorTime {
    before: Option<(i32, u64, Instant)>,
}

impl ProcessorTime {
    /// What the server and its children used since the last look, in percent of `processors`. None at the first look
    /// at a process, and for one that is gone.
    pub(super) fn percent(&mut self, pid: Option<i32>, processors: f64) -> Option<f64> {
        let before = self.before.take();
        let (pid, now) = (pid?, Instant::now());
        let ticks = ticks_of_tree(pid)?;
        self.before = Some((pid, ticks, now));
        let (known, earlier, then) = before.filter(|(known, _, _)| *known == pid)?;
        debug_assert_eq!(known, pid);
        Some(share(ticks.saturating_sub(earlier), now.duration_since(then).as_secs_f64(), processors))
    }
}

/// The share of the processors in percent, 100 at most: ticks are counted a little later than they are used.
fn share(ticks: u64, seconds: f64, processors: f64) -> f64 {
    if seconds <= 0.0 || processors <= 0.0 {
        return 0.0;
    }
    (100.0 * ticks as f64 / TICKS_PER_SECOND / seconds / processors).min(100.0)
}

/// A server's own ticks and those of its children, living or gone: what a child has used passes to its parent when it
/// is waited for, so that the sum never goes back.
fn ticks_of_tree(server: i32) -> Option<u64> {
    let own = read(server)?.ticks;
    let processes = fs::read_dir("/proc").ok()?;
    let children = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .filter(|stat| stat.parent == server)
        .map(|stat| stat.ticks)
        .sum::<u64>();
    Some(own + children)
}

fn read(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, field 2, may hold spaces and brackets, so fields are counted from its last closing one.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(14)? + number(15)? + number(16)? + number(17)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stat_is_read_behind_a_name_with_brackets() {
        let text =
            "4711 (postgres: a) b (c) S 17 4711 4711 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 5 6 7\n";
        assert_eq!(parse(text), Some(Stat { parent: 17, ticks: 154 }));
        assert_eq!(parse("4711 (postgres) S 17"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_tick_a_hundredth_second_is_one_processor() {
        assert_eq!(share(100, 1.0, 1.0), 100.0);
        assert_eq!(share(100, 1.0, 2.0), 50.0);
        assert_eq!(share(120, 1.0, 1.0), 100.0);
        assert_eq!(share(5, 0.0, 1.0), 0.0);
    }

    #[test]
    fn what_a_process_burns_is_seen_and_what_is_gone_is_not() {
        let me = i32::try_from(std::process::id()).unwrap();
        let mut time = ProcessorTime::default();
        assert_eq!(time.percent(Some(me), 1.0), None, "one look is no course");
        let until = Instant::now() + std::time::Duration::from_millis(300);
        let mut sum = 0u64;
        while Instant::now() < until {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(sum > 0 && time.percent(Some(me), 1.0).unwrap() > 1.0);
        assert_eq!(time.percent(None, 1.0), None);
        assert_eq!(time.percent(Some(me), 1.0), None, "after a gap it begins anew");
    }

    proptest! {
        #[test]
        fn a_share_is_a_percentage(ticks in 0u64..1_000_000, seconds in 0.0f64..100.0, processors in 0.0f64..256.0) {
            let share = share(ticks, seconds, processors);
            prop_assert!((0.0..=100.0).contains(&share), "{}", share);
        }
    }
}
