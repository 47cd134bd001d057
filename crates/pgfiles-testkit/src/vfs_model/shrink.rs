//! Leaves out of a failing run what it does not need: halves, quarters, and so on down to single steps, until nothing
//! more can go (Zeller, "Simplifying and Isolating Failure-Inducing Input").

use std::time::{Duration, Instant};

/// The fewest steps found that still fail, within about that time. `fails` runs steps from scratch.
pub fn shrink<S: Clone>(steps: &[S], time: Duration, mut fails: impl FnMut(&[S]) -> bool) -> Vec<S> {
    let (mut kept, begun) = (steps.to_vec(), Instant::now());
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let (mut at, mut gone) = (0, false);
        while at < kept.len() && begun.elapsed() < time {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + size).min(kept.len()));
            if fails(&fewer) {
                kept = fewer;
                gone = true;
            } else {
                at += size;
            }
        }
        if begun.elapsed() >= time || (size == 1 && !gone) {
            break;
        }
        size = if size == 1 { 1 } else { size.div_ceil(2) };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays() {
        let steps: Vec<u32> = (0..1_000).collect();
        let found = shrink(&steps, Duration::from_secs(60), |steps| steps.contains(&3) && steps.contains(&777));
        assert_eq!(found, [3, 777]);
    }

    #[test]
    fn a_bound_ends_it() {
        let steps: Vec<u32> = (0..1_000).collect();
        let mut runs = 0;
        let found = shrink(&steps, Duration::ZERO, |_| {
            runs += 1;
            true
        });
        assert_eq!((runs, found), (0, steps));
    }
}
