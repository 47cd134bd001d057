//! Makes up the next operation from a seed and from what there is.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::history::World;
use super::step::{NAMES, Step, What};
use super::{OPEN_MAX, Plan};
use crate::model::Id;

/// Directories deeper than that get none of their own.
const DEPTH_MAX: usize = 3;

/// How often each operation is tried, of the sum of all.
const WEIGHTS: &[(What, u32)] = &[
    (What::Create, 140),
    (What::Open, 40),
    (What::Write, 200),
    (What::Read, 50),
    (What::Close, 150),
    (What::Dup, 30),
    (What::Fsync, 30),
    (What::Ftruncate, 25),
    (What::Truncate, 25),
    (What::Allocate, 30),
    (What::Copy, 25),
    (What::Seek, 15),
    (What::Mkdir, 35),
    (What::Symlink, 12),
    (What::Fifo, 8),
    (What::Unlink, 60),
    (What::Rmdir, 20),
    (What::Rename, 100),
    (What::Exchange, 30),
    (What::Link, 50),
    (What::LinkOpen, 15),
    (What::SetAttr, 40),
    (What::Xattr, 25),
    (What::ReadDir, 25),
    (What::Flush, 8),
    (What::Forget, 8),
    (What::Remount, 6),
    (What::Kill, 10),
    (What::Wait, 12),
    (What::Purge, 15),
    (What::PurgeDir, 4),
    (What::Restore, 20),
    (What::Put, 20),
    (What::Delete, 8),
    (What::Insert, 20),
    (What::Update, 10),
    (What::DeleteRow, 10),
];

fn letters(path: &[Vec<u8>]) -> String {
    path.iter().filter_map(|name| NAMES.iter().position(|known| known == name)).map(|at| char::from(b'a' + at as u8)).collect()
}

/// Where the next operations come from.
pub struct Generator {
    rng: StdRng,
    plan: Plan,
}

impl Generator {
    /// From the plan's seed.
    pub fn new(plan: &Plan, rng: StdRng) -> Self {
        Self { rng, plan: plan.clone() }
    }

    fn dir(&mut self, world: &World) -> Id {
        *world.tree.dirs().choose(&mut self.rng).unwrap_or(&0)
    }

    fn path_in(&mut self, world: &World, dir: Id) -> String {
        let mut path = letters(&world.tree.path(dir).unwrap_or_default());
        path.push(char::from(b'a' + self.rng.random_range(0..NAMES.len()) as u8));
        path
    }

    /// A name of any directory, taken or free.
    fn path(&mut self, world: &World) -> String {
        let dir = self.dir(world);
        self.path_in(world, dir)
    }

    /// A name that is taken, mostly.
    fn taken(&mut self, world: &World) -> String {
        let dir = self.dir(world);
        let names: Vec<&Vec<u8>> = world.tree.names(dir).keys().collect();
        match names.choose(&mut self.rng) {
            Some(name) if self.rng.random_bool(0.9) => {
                let mut path = world.tree.path(dir).unwrap_or_default();
                path.push((*name).clone());
                letters(&path)
            }
            _ => self.path_in(world, dir),
        }
    }

    fn slot(&mut self, world: &World, at: usize, taken: bool) -> usize {
        let slots: Vec<usize> = (0..OPEN_MAX).filter(|slot| world.open[at][*slot].is_some() == taken).collect();
        slots.choose(&mut self.rng).copied().unwrap_or(0)
    }

    fn size_of(&self, world: &World, at: usize, slot: usize) -> u64 {
        world.open[at][slot].map_or(0, |open| world.tree.node(open.id).bytes().len() as u64)
    }

    fn len(&mut self) -> u64 {
        let max = *[0, 100, 100, 100, 5_000, 5_000, 50_000, self.plan.bytes_max].choose(&mut self.rng).unwrap_or(&1);
        self.rng.random_range(0..=max)
    }

    fn offset(&mut self, size: u64) -> u64 {
        match self.rng.random_range(0..8) {
            0..3 => size,
            3 => 0,
            4 => self.rng.random_range(0..=size),
            // Where chunks begin.
            5 => self.rng.random_range(0..=size / (128 << 10)) * (128 << 10),
            6 => size + self.rng.random_range(0..1_000),
            _ => size + self.rng.random_range(0..=self.plan.bytes_max),
        }
    }

    /// The next operation.
    pub fn next(&mut self, world: &World) -> Step {
        let sum: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..sum);
        let found = WEIGHTS.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let what = found.map_or(What::Read, |(what, _)| *what);
        let mounts = self.plan.mounts;
        let at = if self.rng.random_bool(0.75) { 0 } else { self.rng.random_range(0..mounts) };
        let taken = !matches!(what, What::Create | What::Open);
        let slot = self.slot(world, at, taken);
        let mut step = Step { what, at, slot, path: String::new(), to: String::new(), n: [0; 4] };
        let size = self.size_of(world, at, slot);
        let seed = self.rng.random_range(1..1_000_000);
        match what {
            What::Create | What::Open => {
                step.path = if what == What::Open { self.taken(world) } else { self.path(world) };
                let write = self.rng.random_bool(0.85);
                let bit = |yes: bool, bit: u64| if yes { bit } else { 0 };
                step.n[0] = bit(write, 1)
                    | bit(write && self.rng.random_bool(0.2), 2)
                    | bit(write && self.rng.random_bool(0.2), 4)
                    | bit(what == What::Create && self.rng.random_bool(0.1), 8);
            }
            What::Write => step.n = [self.offset(size), self.len(), seed, 0],
            What::Read => step.n = [self.offset(size), self.offset(size), 0, 0],
            What::Close => step.n[0] = self.rng.random_range(0..3),
            What::Ftruncate => step.n[0] = self.offset(size).min(self.plan.bytes_max),
            What::Truncate => {
                step.path = self.taken(world);
                step.n[0] = if self.rng.random_bool(0.3) { 0 } else { self.len() };
            }
            What::Allocate => step.n = [self.rng.random_range(0..5), self.offset(size), self.len(), 0],
            What::Copy => {
                step.n = [self.slot(world, at, true) as u64, self.offset(size), self.len(), 0];
                let target = self.size_of(world, at, step.n[0] as usize);
                step.n[3] = self.offset(target);
            }
            What::Mkdir => {
                let shallow = |id: &Id| world.tree.path(*id).is_some_and(|path| path.len() < DEPTH_MAX);
                let dirs: Vec<Id> = world.tree.dirs().into_iter().filter(shallow).collect();
                let dir = *dirs.choose(&mut self.rng).unwrap_or(&0);
                step.path = self.path_in(world, dir);
            }
            What::Symlink | What::Fifo => step.path = self.path(world),
            What::Rename => {
                (step.path, step.to) = (self.taken(world), self.path(world));
                step.n[0] = u64::from(self.rng.random_bool(0.2));
            }
            What::Exchange => (step.path, step.to) = (self.taken(world), self.taken(world)),
            What::Link => (step.path, step.to) = (self.taken(world), self.path(world)),
            What::LinkOpen => step.to = self.path(world),
            What::SetAttr => {
                step.path = self.taken(world);
                let second = self.rng.random_range(0..2_000_000_000);
                step.n = [self.rng.random_range(1..32), self.rng.random_range(0..0o1000), self.rng.random_range(0..5000), second];
            }
            What::Xattr => {
                step.path = self.taken(world);
                step.n = [self.rng.random_range(0..2), u64::from(self.rng.random_bool(0.3)), self.rng.random_range(0..20), seed];
            }
            What::ReadDir => {
                step.path = letters(&world.tree.path(self.dir(world)).unwrap_or_default());
                step.n = [self.rng.random_range(1..12), self.rng.random_range(0..2), 0, 0];
            }
            What::Wait => step.n[0] = *[60, 1_100, 5_100, 61_000].choose(&mut self.rng).unwrap_or(&60),
            What::PurgeDir => {
                step.path = letters(&world.tree.path(self.dir(world)).unwrap_or_default());
                step.n[0] = self.rng.random_range(1..4);
            }
            What::Purge => {
                step.path = self.path(world);
                step.n[0] = self.rng.random_range(0..4);
            }
            What::Restore => {
                step.path = self.path(world);
                step.n[0] = self.rng.random_range(1..6);
            }
            What::Put | What::Insert | What::Update => {
                step.path = if self.rng.random_bool(0.5) { self.taken(world) } else { self.path(world) };
                step.n = [0, self.len().min(200_000), seed, 0];
            }
            What::Unlink | What::Rmdir | What::Delete | What::DeleteRow => step.path = self.taken(world),
            What::Dup | What::Fsync | What::Seek | What::Flush | What::Forget | What::Remount | What::Kill => {}
        }
        step
    }
}
