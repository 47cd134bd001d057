//! The model test: random operations on the filesystem and on a plain model of it, over everything that it can stand on.
//!
//! Each run takes a fresh seed and prints it; `PGFILES_TEST_SEED` and `PGFILES_TEST_STEPS` repeat one, `PGFILES_TEST_TRACE` shows
//! the steps. `make model` runs [`many_seeds`] for as long as ten million operations take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgfiles_store::layer::log::Mode;
use pgfiles_testkit::vfs_model::{Kind, Plan, check, number, run, seed, shortest, step};

/// A time to live without end for what happened before the run.
const FOR_EVER: u32 = 10_000_000;

fn plan(steps: usize, on: Kind) -> Plan {
    let plan = Plan::new(seed(), number("PGFILES_TEST_STEPS").map_or(steps, |steps| steps as usize));
    // Where time passes by itself, nothing may depend on it.
    Plan { on, young_seconds: if on.is_timed() { 60 } else { FOR_EVER }, ..plan }
}

#[test]
fn random_operations() {
    check(&plan(500, Kind::Memory));
}

#[test]
fn random_operations_of_three_mounts() {
    check(&Plan { mounts: 3, ..plan(400, Kind::Memory) });
}

#[test]
fn random_operations_that_keep_all_history() {
    check(&Plan { young_seconds: 0, ..plan(400, Kind::Memory) });
}

#[test]
fn random_operations_with_little_memory() {
    check(&Plan { dirty_bytes_max: 100_000, ..plan(400, Kind::Memory) });
}

#[test]
fn random_operations_through_all_layers() {
    check(&plan(250, Kind::Layers { mode: Mode::Close, told: true }));
}

#[test]
fn random_operations_that_trust_nothing() {
    check(&plan(250, Kind::Layers { mode: Mode::Close, told: false }));
}

#[test]
fn random_operations_in_sync() {
    check(&plan(250, Kind::Layers { mode: Mode::Sync, told: true }));
}

#[test]
fn random_operations_in_writeback() {
    check(&plan(250, Kind::Layers { mode: Mode::Writeback, told: true }));
}

#[test]
fn random_operations_on_a_server_that_loses_replies() {
    check(&plan(250, Kind::Faults { crash_every: 0 }));
}

#[test]
fn random_operations_on_a_server_that_crashes() {
    check(&Plan { mounts: 1, ..plan(250, Kind::Faults { crash_every: 20 }) });
}

/// A bug is planted: every ninth commit of a mount fails. What is left of the run cannot be shorter, and does fail.
#[test]
fn a_failing_run_is_made_short() {
    let plan = Plan { on: Kind::Broken { every: 9 }, whole_every: usize::MAX, ..Plan::new(1, 500) };
    let ran = run(&plan, None);
    assert!(ran.failure.is_some() && ran.steps.len() < 500, "{:?}", ran.failure);
    let (kept, said) = shortest(&plan, &ran.steps, Duration::from_secs(60));
    assert!(said.contains("refuses") || said.contains("Invalid"), "{said}");
    assert!(kept.len() <= 12, "{} of {}: {kept:?}", kept.len(), ran.steps.len());
    let text: String = kept.iter().map(|step| format!("{step}\n")).collect();
    assert_eq!(step::parse(&text), kept);
    assert!(run(&plan, Some(&kept)).failure.is_some());
    for left_out in 0..kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(left_out);
        assert_eq!(run(&plan, Some(&fewer)).failure, None, "without step {left_out}");
    }
}

/// `make model`: as many operations as `PGFILES_TEST_STEPS` says, over many seeds, on all processors.
#[test]
#[ignore = "ten million operations: make model"]
fn many_seeds() {
    let wanted = number("PGFILES_TEST_STEPS").unwrap_or(10_000_000);
    let first = number("PGFILES_TEST_SEED").unwrap_or(0);
    let (done, next) = (AtomicU64::new(0), AtomicU64::new(first));
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..number("PGFILES_TEST_THREADS").unwrap_or(2) {
            threads.spawn(|| {
                while done.load(Ordering::Relaxed) < wanted {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let plan = varied(seed);
                    match std::panic::catch_unwind(|| check(&plan)) {
                        Ok(_) => {}
                        Err(panic) => {
                            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                            println!("FAILED {text}");
                            failures.lock().unwrap().push(seed);
                        }
                    }
                    let all = done.fetch_add(plan.steps as u64, Ordering::Relaxed) + plan.steps as u64;
                    if seed % 100 == 99 {
                        println!("{all} operations, seeds {first} to {seed}");
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} operations, seeds {first} to {}", done.into_inner(), next.into_inner() - 1);
    assert!(failures.is_empty(), "seeds {failures:?}");
}

/// All that a run can stand on but Postgres, by turns.
fn varied(seed: u64) -> Plan {
    // Short ones are made short soon; what takes long to go wrong needs long ones.
    let steps = if seed % 16 < 14 { 300 } else { 2_000 };
    let plan = Plan { whole_every: 100, ..Plan::new(seed, steps) };
    let on = |on| Plan { on, ..plan.clone() };
    match seed % 12 {
        0 => Plan { mounts: 3, ..plan },
        1 => Plan { young_seconds: 0, ..plan },
        2 => Plan { dirty_bytes_max: 100_000, ..plan },
        3 => on(Kind::Layers { mode: Mode::Close, told: true }),
        4 => on(Kind::Layers { mode: Mode::Close, told: false }),
        5 => on(Kind::Layers { mode: Mode::Sync, told: true }),
        6 => on(Kind::Layers { mode: Mode::Writeback, told: true }),
        7 => Plan { young_seconds: FOR_EVER, ..on(Kind::Faults { crash_every: 0 }) },
        8 => Plan { young_seconds: FOR_EVER, mounts: 1, ..on(Kind::Faults { crash_every: 30 }) },
        9 => Plan { bytes_max: 5_000, ..plan },
        10 => Plan { mounts: 1, ..plan },
        _ => plan,
    }
}
