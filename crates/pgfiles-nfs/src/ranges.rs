//! Locked ranges of one file: what is in the way, and what is held after a change (`man 2 fcntl`, RFC 8881 §18.10). Pure.

use std::fmt::Debug;

/// A locked range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) struct Range<O> {
    pub owner: O,
    pub start: u64,
    /// Included; `u64::MAX` for no end.
    pub end: u64,
    pub exclusive: bool,
}

/// All of a file: an owner's do not overlap, and what can be one range is one.
#[derive(Debug, Clone)]
pub(crate) struct Ranges<O>(Vec<Range<O>>);

impl<O> Default for Ranges<O> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<O: Copy + Eq + Debug> Ranges<O> {
    /// The first that is in the way of another owner's.
    pub fn conflict(&self, wanted: &Range<O>) -> Option<Range<O>> {
        let meets = |held: &&Range<O>| {
            held.owner != wanted.owner
                && (held.exclusive || wanted.exclusive)
                && held.start <= wanted.end
                && wanted.start <= held.end
        };
        self.0.iter().find(meets).copied()
    }

    /// Locks a range, whatever its owner held of it before. Nothing may be in the way.
    pub fn lock(&mut self, wanted: Range<O>) {
        self.unlock(wanted.owner, wanted.start, wanted.end);
        let mut merged = wanted;
        self.0.retain(|held| {
            let touches = held.owner == wanted.owner
                && held.exclusive == wanted.exclusive
                && held.start <= merged.end.saturating_add(1)
                && merged.start <= held.end.saturating_add(1);
            if touches {
                merged.start = merged.start.min(held.start);
                merged.end = merged.end.max(held.end);
            }
            !touches
        });
        self.0.push(merged);
    }

    /// Gives back what an owner holds of a range.
    pub fn unlock(&mut self, owner: O, start: u64, end: u64) {
        let mut parts = Vec::new();
        self.0.retain(|held| {
            if held.owner != owner || held.start > end || held.end < start {
                return true;
            }
            if held.start < start {
                parts.push(Range { end: start - 1, ..*held });
            }
            if held.end > end {
                parts.push(Range { start: end + 1, ..*held });
            }
            false
        });
        self.0.extend(parts);
    }

    /// Whether an owner holds any.
    pub fn holds(&self, owner: O) -> bool {
        self.0.iter().any(|held| held.owner == owner)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 24;

    proptest! {
        /// Against an array that says of each byte who holds it how.
        #[test]
        fn as_byte_for_byte(steps in proptest::collection::vec((0_u8..3, 0..BYTES, 0..BYTES, 0_u8..3), 1..60)) {
            let mut ranges = Ranges::default();
            let mut plain = [[None; BYTES as usize]; 3];
            for (owner, a, b, what) in steps {
                let (start, end) = (a.min(b), a.max(b));
                let exclusive = what == 1;
                let wanted = Range { owner, start, end, exclusive };
                let bytes = start as usize..=end as usize;
                if what == 2 {
                    ranges.unlock(owner, start, end);
                    plain[usize::from(owner)][bytes].fill(None);
                    continue;
                }
                let in_the_way = (0..3).filter(|other| *other != owner).any(|other| {
                    plain[usize::from(other)][bytes.clone()].iter().any(|held| held.is_some_and(|held: bool| held || exclusive))
                });
                prop_assert_eq!(ranges.conflict(&wanted).is_some(), in_the_way);
                if !in_the_way {
                    ranges.lock(wanted);
                    plain[usize::from(owner)][bytes].fill(Some(exclusive));
                }
                for owner in 0..3_u8 {
                    let mut seen = [None; BYTES as usize];
                    for held in ranges.0.iter().filter(|held| held.owner == owner) {
                        for byte in held.start..=held.end {
                            prop_assert!(seen[byte as usize].is_none(), "ranges of one owner overlap");
                            seen[byte as usize] = Some(held.exclusive);
                        }
                    }
                    prop_assert_eq!(seen, plain[usize::from(owner)]);
                    let runs = seen.iter().enumerate().filter(|(at, held)| held.is_some() && (*at == 0 || seen[at - 1] != **held));
                    prop_assert_eq!(runs.count(), ranges.0.iter().filter(|held| held.owner == owner).count(), "not merged");
                }
            }
        }
    }

    #[test]
    fn the_end_of_all_is_a_byte_as_any() {
        let mut ranges = Ranges::default();
        ranges.lock(Range { owner: 1, start: 0, end: u64::MAX, exclusive: true });
        ranges.unlock(1, 5, 5);
        assert_eq!(ranges.len(), 2);
        assert!(ranges.conflict(&Range { owner: 2, start: 5, end: 5, exclusive: true }).is_none());
        assert!(ranges.conflict(&Range { owner: 2, start: u64::MAX, end: u64::MAX, exclusive: false }).is_some());
        ranges.unlock(1, 0, u64::MAX);
        assert!(ranges.len() == 0 && !ranges.holds(1));
    }
}
