//! A commit that was answered has to be made, whatever other clients did meanwhile: how a refused one is made to fit.
//!
//! What was answered must not be lost, and another's version must not be either: a precondition that no longer holds is
//! given up, so that both versions exist and the later commit is the head. What has nothing left to act on
//! has its effect already, or is counted as lost and logged.

use crate::batch::{Op, Outcome, Precondition};
use crate::error::{Kind, Result, StoreError};
use crate::layer::cache::heads::touched;

/// Whether another client may be the reason.
pub fn is_overtaken(kind: Kind) -> bool {
    matches!(kind, Kind::Conflict | Kind::NotFound | Kind::NotEmpty | Kind::BodyGone)
}

/// Operations on their way to an acceptance.
pub struct Relaxed {
    /// What is left, with the place in the batch.
    left: Vec<(usize, Op)>,
    count: usize,
    /// Operations that were given up and whose effect is not there.
    pub lost: u64,
}

impl Relaxed {
    /// All of them as they are.
    pub fn new(ops: &[Op]) -> Self {
        Self { left: ops.iter().cloned().enumerate().collect(), count: ops.len(), lost: 0 }
    }

    /// What to commit next; nothing: done.
    pub fn ops(&self) -> Vec<Op> {
        self.left.iter().map(|(_, op)| op.clone()).collect()
    }

    /// The server refused: gives up the precondition of the operation, or the operation.
    ///
    /// # Errors
    /// The refusal itself where another client is not the reason.
    pub fn refused(&mut self, error: StoreError) -> Result<()> {
        let place = error.op().filter(|place| *place < self.left.len());
        if !is_overtaken(error.kind()) {
            return Err(error);
        }
        let Some(place) = place else {
            let mut relaxed = false;
            for (_, op) in &mut self.left {
                relaxed |= relax(op);
            }
            return if relaxed { Ok(()) } else { Err(error) };
        };
        if relax(&mut self.left[place].1) {
            return Ok(());
        }
        let (_, op) = self.left.remove(place);
        let has_effect = error.kind() == Kind::NotFound && matches!(op, Op::Delete(_) | Op::RemoveDir(_));
        if !has_effect {
            self.lost += 1;
            tracing::error!(%error, keys = ?touched(&op), "an operation that was answered cannot be carried out any more");
        }
        Ok(())
    }

    /// The outcomes of what was left, one for each operation of the batch; `None` for what was given up.
    pub fn outcomes(&self, outcomes: Vec<Outcome>) -> Vec<Option<Outcome>> {
        let mut all: Vec<Option<Outcome>> = (0..self.count).map(|_| None).collect();
        for ((place, _), outcome) in self.left.iter().zip(outcomes) {
            all[*place] = Some(outcome);
        }
        all
    }
}

/// Gives up the preconditions; false where there were none.
fn relax(op: &mut Op) -> bool {
    let any = |expect: &mut Precondition| std::mem::take(expect) != Precondition::Any;
    match op {
        Op::Put(op) => any(&mut op.expect),
        Op::SetAttr(op) => any(&mut op.expect),
        Op::Delete(op) => any(&mut op.expect),
        Op::Rename(op) => any(&mut op.expect_from) | any(&mut op.expect_to),
        Op::Copy(op) => any(&mut op.expect),
        Op::Restore(op) => any(&mut op.expect),
        Op::RenameDir(op) => std::mem::take(&mut op.to_absent),
        Op::Body(_) | Op::RemoveDir(_) | Op::Exchange(_) | Op::Link(_) | Op::RestoreDir(_) => false,
    }
}
