//! Which position of a partition or shard may be committed: all before it are done.

use std::collections::VecDeque;

use super::record::Position;

/// The records of one partition or shard that were read, and which of them are done.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    read: VecDeque<(Position, bool)>,
    done_to: Option<Position>,
}

impl Progress {
    /// A record was read. One at or before the last that was read means that the source began anew (a topic that was
    /// made again has its own offsets): what was known is forgotten.
    pub fn read(&mut self, position: Position) {
        let last = self.read.back().map(|(last, _)| last).or(self.done_to.as_ref());
        if last.is_some_and(|last| position <= *last) {
            self.read.clear();
            self.done_to = None;
        }
        self.read.push_back((position, false));
    }

    /// A record is done: its function had it, or it was given up and told so. One that is not known is no error.
    pub fn done(&mut self, position: &Position) {
        if let Ok(index) = self.read.binary_search_by(|(read, _)| read.cmp(position))
            && let Some((_, done)) = self.read.get_mut(index)
        {
            *done = true;
        }
        while let Some((position, _)) = self.read.pop_front_if(|(_, done)| *done) {
            self.done_to = Some(position);
        }
    }

    /// The last position such that it and all before it are done.
    #[must_use]
    pub fn done_to(&self) -> Option<&Position> {
        self.done_to.as_ref()
    }

    /// Whether all that was read is done.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.read.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_committed_has_nothing_undone_before_it(order in Just((0..40i64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut progress = Progress::default();
            (0..40).for_each(|offset| progress.read(Position::from(offset)));
            let mut done = std::collections::BTreeSet::new();
            for offset in order {
                progress.done(&Position::from(offset));
                done.insert(offset);
                let contiguous = (0..40).take_while(|offset| done.contains(offset)).last();
                prop_assert_eq!(progress.done_to().and_then(Position::offset), contiguous);
            }
            prop_assert!(progress.is_settled());
        }
    }

    #[test]
    fn a_source_that_begins_anew_is_followed() {
        let mut progress = Progress::default();
        progress.read(Position::from(100));
        progress.read(Position::from(0));
        progress.done(&Position::from(100));
        assert_eq!(progress.done_to(), None);
        progress.done(&Position::from(0));
        assert_eq!(progress.done_to(), Some(&Position::from(0)));
    }
}
