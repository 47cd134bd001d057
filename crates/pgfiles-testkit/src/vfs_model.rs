//! The model test of the filesystem: random operations on [`pgfiles_vfs::Vfs`] and on a [`World`], compared after every
//! one. Two or three mounts of one prefix, each over layers of its own, and a client that is none; files that are unlinked,
//! renamed and replaced while open; remounts and kills. The model predicts every version with its number and content.
//!
//! A run is a list of [`Step`]s made up from a seed. One that fails is made as short as can be and printed as text, which
//! [`replay`] runs again: that is how it is kept as a named test.

pub mod compare;
pub mod generate;
pub mod ground;
pub mod history;
pub mod run;
pub mod shrink;
pub mod step;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Result, anyhow};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use ground::{Ground, Kind};
pub use history::World;
pub use step::{Step, What};

use generate::Generator;
use run::Run;

/// Open files of a mount.
pub const OPEN_MAX: usize = 6;
/// How long making a failure short may take; PGFILES_TEST_SHRINK gives another number of seconds.
const SHRINK_TIME: Duration = Duration::from_secs(90);
/// No operation takes that long, on a clock that stands still while anything is done.
const STEP_TAKES_MAX: Duration = Duration::from_secs(6 * 3600);

/// How a run is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Same seed, same operations.
    pub seed: u64,
    /// How many.
    pub steps: usize,
    /// How many mounts.
    pub mounts: usize,
    /// As in [`pgfiles_vfs::VfsConfig`].
    pub young_seconds: u32,
    /// As in [`pgfiles_vfs::VfsConfig`]. Below the default it is not predicted when something is published, so that
    /// versions are not counted and mounts do not die.
    pub dirty_bytes_max: u64,
    /// The size of the largest writes; files are somewhat larger.
    pub bytes_max: u64,
    /// Steps between comparisons of all that there is.
    pub whole_every: usize,
    /// What it runs on.
    pub on: Kind,
}

impl Plan {
    /// Two mounts of a bare [`pgfiles_store::mem::MemStore`].
    pub fn new(seed: u64, steps: usize) -> Self {
        Self {
            seed,
            steps,
            mounts: 2,
            young_seconds: 60,
            dirty_bytes_max: 48 << 20,
            bytes_max: 400_000,
            whole_every: 25,
            on: Kind::Memory,
        }
    }

    /// Whether the model knows when something is published.
    pub fn is_exact(&self) -> bool {
        self.dirty_bytes_max >= 64 << 20
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// What was done, up to and including the step that failed.
    pub steps: Vec<Step>,
    /// Operations that applied to something.
    pub effective: u64,
    /// What differs.
    pub failure: Option<String>,
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seed of a run, printed: `PGFILES_TEST_SEED`, else a fresh one.
pub fn seed() -> u64 {
    let seed = number("PGFILES_TEST_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    println!("PGFILES_TEST_SEED={seed}");
    seed
}

/// Runs a plan, or these steps on it.
pub fn run(plan: &Plan, steps: Option<&[Step]>) -> Ran {
    let mut ran = Ran { steps: Vec::new(), effective: 0, failure: None };
    let done = catch_unwind(AssertUnwindSafe(|| {
        let runtime = ground::runtime(plan.on);
        let done = runtime.block_on(within(plan, steps, &mut ran));
        runtime.shutdown_background();
        done
    }));
    ran.failure = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panicked: {}", text.unwrap_or_default()))
        }
    };
    ran
}

async fn within(plan: &Plan, steps: Option<&[Step]>, ran: &mut Ran) -> Result<()> {
    let mut run = Run::new(plan).await?;
    let mut generator = Generator::new(plan, StdRng::seed_from_u64(plan.seed));
    let count = steps.map_or(plan.steps, <[Step]>::len);
    let trace = std::env::var_os("PGFILES_TEST_TRACE").is_some();
    for nth in 0..count {
        let step = match steps {
            Some(steps) => steps[nth].clone(),
            None => generator.next(&run.world),
        };
        ran.steps.push(step.clone());
        if trace {
            eprintln!("{nth}: {step}");
        }
        let said = || format!("step {nth}, {step}");
        let done = tokio::time::timeout(STEP_TAKES_MAX, run.step(&step)).await;
        let done = done.map_err(|_| anyhow!("it never ends")).and_then(|done| done);
        ran.effective += u64::from(done.map_err(|error| error.context(said()))?);
        if (nth + 1).is_multiple_of(plan.whole_every) {
            run.compare_all().await.map_err(|error| error.context(format!("after {}", said())))?;
        }
    }
    run.finish().await.map_err(|error| error.context("at the end"))
}

/// Runs a plan; how many operations had an effect.
///
/// # Panics
/// Where the filesystem and the model differ: with the seed, and the shortest run found that shows it.
pub fn check(plan: &Plan) -> u64 {
    let ran = run(plan, None);
    match &ran.failure {
        None => ran.effective,
        Some(failure) => panic!("{}", report(plan, &ran.steps, failure)),
    }
}

/// The shortest failing run and what it says.
pub fn shortest(plan: &Plan, steps: &[Step], time: Duration) -> (Vec<Step>, String) {
    let mut said = String::new();
    let mut fails = |plan: &Plan, steps: &[Step]| match run(plan, Some(steps)).failure {
        Some(failure) => {
            said = failure;
            true
        }
        None => false,
    };
    // Most differences are still there at the end; looking at everything only then is fastest.
    let last = Plan { whole_every: usize::MAX, ..plan.clone() };
    let plan = if fails(&last, steps) { &last } else { plan };
    let kept = shrink::shrink(steps, time, |steps| fails(plan, steps));
    // Where the difference comes up, if it can be seen there.
    fails(&Plan { whole_every: 1, ..plan.clone() }, &kept);
    (kept, said)
}

fn report(plan: &Plan, steps: &[Step], failure: &str) -> String {
    eprintln!("seed {} on {plan:?}: {failure}; making it short", plan.seed);
    let time = number("PGFILES_TEST_SHRINK").map_or(SHRINK_TIME, Duration::from_secs);
    let (kept, said) = shortest(plan, steps, time);
    let text: String = kept.iter().map(|step| format!("{step}\n")).collect();
    format!("seed {} on {plan:?}: {failure}\n\nshortest, {} steps of {}: {said}\n{text}", plan.seed, kept.len(), steps.len())
}

/// Runs steps as [`report`] prints them.
///
/// # Panics
/// Where the filesystem and the model differ.
pub fn replay(plan: &Plan, text: &str) {
    let steps = step::parse(text);
    let plan = Plan { whole_every: 1, ..plan.clone() };
    if let Some(failure) = run(&plan, Some(&steps)).failure {
        panic!("{failure}");
    }
}
