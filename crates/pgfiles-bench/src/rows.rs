//! The rows of the table: what each must reach, and how it is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measure::Measure;
use crate::work::Sizes;

/// Results by row and by whose: `E`, `F`, `pgfiles`, `writeback`; what Postgres alone needs stands under `P`.
#[derive(Debug, Default)]
pub struct Results {
    pub found: BTreeMap<(String, String), Measure>,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    Micros,
    Seconds,
    /// More is better.
    MibPerSecond,
    Mib,
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Micros => format!("{:.1} µs", value * 1e6),
            Unit::Seconds => format!("{value:.3} s"),
            Unit::MibPerSecond => format!("{value:.0} MiB/s"),
            Unit::Mib => format!("{value:.0} MiB"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

/// Gives the bound as a number, of a row's name and all results.
type Bound = fn(&str, &Results, &Sizes) -> Option<f64>;

/// A row.
pub struct Row {
    pub name: &'static str,
    pub unit: Unit,
    /// In words and as a number, for the default mode.
    pub bound: Option<(&'static str, Bound)>,
    /// The same for `writeback`, where it has one of its own.
    pub writeback: Option<(&'static str, Bound)>,
}

const fn row(name: &'static str, unit: Unit, words: &'static str, bound: Bound) -> Row {
    Row { name, unit, bound: Some((words, bound)), writeback: None }
}

impl Results {
    /// A result by row and by whose.
    pub fn get(&self, row: &str, whose: &str) -> Option<f64> {
        self.found.get(&(row.to_owned(), whose.to_owned())).map(|measure| measure.p50).filter(|value| value.is_finite())
    }

    fn f(&self, row: &str) -> Option<f64> {
        self.get(row, "F")
    }

    fn p(&self, name: &str) -> Option<f64> {
        self.get(name, "P")
    }

    /// Of a statement of P the seconds on average, for a whole of many.
    fn p_mean(&self, name: &str) -> Option<f64> {
        self.found.get(&(name.to_owned(), "P".to_owned()))?.mean
    }

    /// F and P together.
    fn fp(&self, row: &str, name: &str) -> Option<f64> {
        Some(self.f(row)? + self.p(name)?)
    }
}

use Unit::{Count, Mib, MibPerSecond, Micros, Seconds};

const F15: (&str, Bound) = ("≤ 1.15 × F", |row, r, _| Some(1.15 * r.f(row)?));
const FP0: (&str, Bound) = ("≤ 1.25 × (F + P asynchronous)", |row, r, _| Some(1.25 * r.fp(row, "insert0 async")?));
const SCAN: (&str, Bound) =
    ("≤ 1.5 × (F + one prefix scan)", |row, r, s| Some(1.5 * (r.f(row)? + r.p("scan 10k, cold")? * s.tree as f64 / 1e4)));
const BULK: (&str, Bound) =
    ("≤ 0.4 × one SELECT per file", |_, r, s| Some(0.4 * r.p_mean("select 4k, cold")? * s.tree as f64));
const SYNC: (&str, Bound) = ("≤ 2 × (F + P synchronous)", |row, r, _| Some(2.0 * r.fp(row, "insert4k sync")?));
const SQLITE: (&str, Bound) = ("≤ 1.5 × E", |row, r, _| Some(1.5 * r.get(row, "E")?));
const FLOOR: Option<(&str, Bound)> = Some(("≤ 1.3 × F", |row, r, _| Some(1.3 * r.f(row)?)));
const BEHIND: Option<(&str, Bound)> = Some(("≤ 1.3 × F; with delay ≤ 1.5 × its own without", |row, r, s| {
    if s.delay.is_zero() { Some(1.3 * r.f(row)?) } else { Some(1.5 * r.get(row, "near")?) }
}));
const LATER: (&str, Bound) =
    ("≤ 1.2 × before the files", |row, r, _| Some(1.2 * r.get(row.strip_suffix(", later")?, "pgfiles")?));
const MANY: &str = "≤ 1.2 × its own with 1";

const WHOLE: &str = "≤ 1.2 × (F + files × P asynchronous); with delay ≤ files × 1.3 × it";

/// The number of it. With network delay what a file may take is given by that alone.
fn whole(row: &str, r: &Results, sizes: &Sizes, files: usize) -> Option<f64> {
    if !sizes.delay.is_zero() {
        return Some(files as f64 * 1.3 * sizes.delay.as_secs_f64());
    }
    Some(1.2 * (r.f(row)? + files as f64 * r.p_mean("insert4k async")?))
}

/// In the order of the table.
pub const ROWS: [Row; 39] = [
    Row {
        name: "create 4 KiB",
        unit: Micros,
        bound: Some(("≤ 1.25 × (F + P asynchronous)", |row, r, _| Some(1.25 * r.fp(row, "insert4k async")?))),
        writeback: Some(("≤ 1.25 × F", |row, r, _| Some(1.25 * r.f(row)?))),
    },
    row("create 4 KiB, 8 threads, per file", Micros, "≤ 1.25 × max(F, P with 8 connections)", |row, r, _| {
        Some(1.25 * r.f(row)?.max(r.p("insert4k async, 8 connections")?))
    }),
    row("create 4 KiB + fsync", Micros, "≤ 1.25 × (F + P synchronous)", |row, r, _| Some(1.25 * r.fp(row, "insert4k sync")?)),
    row("create 4 KiB on 8 mounts, per file", Micros, "≤ 1.25 × (F + P with 8 connections)", |row, r, _| {
        Some(1.25 * r.fp(row, "insert4k async, 8 connections")?)
    }),
    row("lstat warm", Micros, F15.0, F15.1),
    row("open, read, close 4 KiB warm", Micros, F15.0, F15.1),
    row("stat of an absent name", Micros, F15.0, F15.1),
    row("lstat cold", Micros, "≤ 1.25 × (F + P)", |row, r, _| Some(1.25 * r.fp(row, "select attributes, cold")?)),
    row("open, read, close 4 KiB cold", Micros, "≤ 1.25 × (F + P)", |row, r, _| Some(1.25 * r.fp(row, "select 4k, cold")?)),
    row("find, cold", Seconds, SCAN.0, SCAN.1),
    row("ls -lR, cold", Seconds, SCAN.0, SCAN.1),
    row("tar c, cold", Seconds, BULK.0, BULK.1),
    row("grep -r, cold", Seconds, BULK.0, BULK.1),
    row("write a large file + fsync", MibPerSecond, "≥ 0.8 × P", |_, r, _| Some(0.8 * r.p("copy")?.max(r.p("insert 1 MiB")?))),
    row("memory of the daemon", Mib, "≤ 256 MiB", |_, _, _| Some(256.0)),
    row("read a large file cold", MibPerSecond, "≥ 0.75 × P", |_, r, _| Some(0.75 * r.p("select 1 MiB, cold")?)),
    row("read a large file warm", MibPerSecond, "≥ 0.8 × F", |row, r, _| Some(0.8 * r.f(row)?)),
    row("overwrite 4 KiB at random + fdatasync", Micros, SYNC.0, SYNC.1),
    row("append 100 B + fdatasync", Micros, SYNC.0, SYNC.1),
    row("rename a file", Micros, FP0.0, FP0.1),
    row("unlink", Micros, FP0.0, FP0.1),
    row("mkdir", Micros, FP0.0, FP0.1),
    row("chmod", Micros, FP0.0, FP0.1),
    row("write a temporary file, rename it over", Micros, "≤ 1.4 × (F + P asynchronous)", |row, r, _| {
        Some(1.4 * r.fp(row, "insert4k async")?)
    }),
    row("rename a directory of the tree", Seconds, "≤ 0.5 s", |_, _, _| Some(0.5)),
    row("rm -rf of the tree", Seconds, "≤ 1.5 × F + 1 s", |row, r, _| Some(1.5 * r.f(row)? + 1.0)),
    Row { name: "untar", unit: Seconds, bound: Some((WHOLE, |row, r, s| whole(row, r, s, s.untar))), writeback: BEHIND },
    Row { name: "git clone", unit: Seconds, bound: Some((WHOLE, |row, r, s| whole(row, r, s, s.clone))), writeback: BEHIND },
    Row {
        name: "npm install",
        unit: Seconds,
        bound: Some((
            "with delay ≤ files × 1.3 × it",
            |row, r, s| if s.delay.is_zero() { None } else { whole(row, r, s, s.npm) },
        )),
        writeback: BEHIND,
    },
    Row { name: "git status warm", unit: Seconds, bound: FLOOR, writeback: None },
    row("git status after a remount", Seconds, "≤ 1.5 × its own ls -lR, cold", |_, r, _| {
        Some(1.5 * r.get("ls -lR of the clone, cold", "pgfiles")?)
    }),
    row("SQLite transaction, DELETE", Micros, SQLITE.0, SQLITE.1),
    row("SQLite transaction, WAL", Micros, SQLITE.0, SQLITE.1),
    row("create in a large directory", Micros, "≤ 1.2 × its own in one of 1,000", |_, r, _| {
        Some(1.2 * r.get("create in a directory of 1,000", "pgfiles")?)
    }),
    row("ls of a large one, per name, cold", Micros, "≤ 1.2 × its own of 1,000", |_, r, _| {
        Some(1.2 * r.get("ls of 1,000, per name, cold", "pgfiles")?)
    }),
    row("ls -l of a large one, per name, cold", Micros, "≤ 1.2 × its own of 1,000", |_, r, _| {
        Some(1.2 * r.get("ls -l of 1,000, per name, cold", "pgfiles")?)
    }),
    row("ls -l, per name, many versions a key, cold", Micros, MANY, |_, r, _| {
        Some(1.2 * r.get("ls -l, per name, 1 version a key, cold", "pgfiles")?)
    }),
    row("read, many versions a key, cold", Micros, MANY, |_, r, _| Some(1.2 * r.get("read, 1 version a key, cold", "pgfiles")?)),
    row("save, many versions a key", Micros, MANY, |_, r, _| Some(1.2 * r.get("save, 1 version a key", "pgfiles")?)),
];

/// Rows that only yardsticks of others are, and single figures.
pub const FURTHER: [Row; 19] = [
    row("mount to first ls", Seconds, "≤ 50 ms", |_, _, _| Some(0.05)),
    row("memory of an idle mount", Mib, "≤ 20 MiB", |_, _, _| Some(20.0)),
    row("connections of an idle mount", Count, "0", |_, _, _| Some(0.0)),
    Row { name: "NFS: create 4 KiB, 8 at once, per file", unit: Micros, bound: None, writeback: None },
    Row { name: "NFS: write 1 MiB at a time + COMMIT", unit: MibPerSecond, bound: None, writeback: None },
    Row { name: "NFS: read 1 MiB at a time", unit: MibPerSecond, bound: None, writeback: None },
    Row { name: "NFS: processor of a GETATTR", unit: Micros, bound: None, writeback: None },
    row("NFS: processor of a GETATTR, later", Micros, LATER.0, LATER.1),
    Row { name: "NFS: processor of a READ of 4 KiB", unit: Micros, bound: None, writeback: None },
    row("NFS: processor of a READ of 4 KiB, later", Micros, LATER.0, LATER.1),
    Row { name: "NFS: processor of a WRITE of 4 KiB", unit: Micros, bound: None, writeback: None },
    row("NFS: processor of a WRITE of 4 KiB, later", Micros, LATER.0, LATER.1),
    Row { name: "ls -lR of the clone, cold", unit: Seconds, bound: None, writeback: None },
    Row { name: "create in a directory of 1,000", unit: Micros, bound: None, writeback: None },
    Row { name: "ls of 1,000, per name, cold", unit: Micros, bound: None, writeback: None },
    Row { name: "ls -l of 1,000, per name, cold", unit: Micros, bound: None, writeback: None },
    Row { name: "ls -l, per name, 1 version a key, cold", unit: Micros, bound: None, writeback: None },
    Row { name: "read, 1 version a key, cold", unit: Micros, bound: None, writeback: None },
    Row { name: "save, 1 version a key", unit: Micros, bound: None, writeback: None },
];

/// All rows.
pub fn all() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(&FURTHER)
}

/// A bound as printed, with the part of it that the result is: up to 1.00 it is met.
fn verdict(row: &Row, bound: Option<&(&'static str, Bound)>, value: Option<f64>, results: &Results, sizes: &Sizes) -> String {
    let Some(limit) = bound.and_then(|(_, bound)| bound(row.name, results, sizes)) else { return String::new() };
    let Some(value) = value else { return String::new() };
    let (met, part) = match row.unit {
        MibPerSecond => (value >= limit, limit / value),
        _ => (value <= limit, value / limit),
    };
    // Of a bound of none there is no part.
    let part = if limit > 0.0 { format!(" {part:.2}") } else { String::new() };
    format!("{}{part}", if met { "met" } else { "**missed**" })
}

/// The table, in Markdown.
pub fn table(results: &Results, sizes: &Sizes) -> String {
    let mut text = String::from(
        "| | E | F | pgfiles | p99 | × E | × F | must reach | part of it | writeback | part of it | round trips | rows | bytes |\n\
         |---|---:|---:|---:|---:|---:|---:|---|---|---:|---|---:|---:|---:|\n",
    );
    for row in all().filter(|row| results.found.keys().any(|(name, _)| name == row.name)) {
        let show = |whose: &str| results.get(row.name, whose).map_or_else(String::new, |value| row.unit.show(value));
        let own = results.found.get(&(row.name.to_owned(), "pgfiles".to_owned())).copied().unwrap_or_default();
        let value = results.get(row.name, "pgfiles");
        let part = |whose: &str| match (value, results.get(row.name, whose)) {
            (Some(value), Some(yard)) if yard > 0.0 => format!("{:.2}", value / yard),
            _ => String::new(),
        };
        let per = |figure: Option<f64>| figure.map_or_else(String::new, |figure| format!("{figure:.2}"));
        let behind = results.get(row.name, "writeback");
        let behind_bound = row.writeback.as_ref();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            show("E"),
            show("F"),
            show("pgfiles"),
            own.p99.map_or_else(String::new, |value| row.unit.show(value)),
            part("E"),
            part("F"),
            row.bound.as_ref().map_or("", |(words, _)| words),
            verdict(row, row.bound.as_ref(), value, results, sizes),
            show("writeback"),
            verdict(row, behind_bound, behind, results, sizes),
            per(own.round_trips),
            per(own.rows),
            own.bytes.map_or_else(String::new, |bytes| format!("{bytes:.0}")),
        );
    }
    text.push_str("\n| Postgres alone | |\n|---|---:|\n");
    for ((name, whose), measure) in &results.found {
        if whose == "P" {
            let unit = match name.as_str() {
                "copy" | "insert 1 MiB" | "select 1 MiB, cold" => MibPerSecond,
                "scan 10k, cold" => Seconds,
                _ => Micros,
            };
            let _ = writeln!(text, "| {name} | {} |", unit.show(measure.p50));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_delay_a_file_has_its_share_of_it() {
        let mut results = Results::default();
        results.found.insert(("untar".into(), "pgfiles".into()), Measure::one(7.0));
        let delay = std::time::Duration::from_millis(1);
        let text = table(&results, &Sizes { delay, ..Sizes::FULL });
        assert!(text.lines().any(|line| line.starts_with("| untar") && line.contains("**missed** 1.08")), "{text}");
    }

    #[test]
    fn a_row_says_whether_its_bound_is_met() {
        let mut results = Results::default();
        for (row, whose, value) in [
            ("create 4 KiB", "F", 100e-6),
            ("create 4 KiB", "pgfiles", 210e-6),
            ("create 4 KiB", "writeback", 130e-6),
            ("insert4k async", "P", 60e-6),
            ("read a large file warm", "F", 1000.0),
            ("read a large file warm", "pgfiles", 900.0),
            ("connections of an idle mount", "pgfiles", 1.0),
        ] {
            results.found.insert((row.into(), whose.into()), Measure::one(value));
        }
        let text = table(&results, &Sizes::FULL);
        let create = text.lines().find(|line| line.starts_with("| create")).unwrap();
        assert!(
            create.contains("**missed** 1.05") && create.contains("**missed** 1.04") && create.contains("210.0 µs"),
            "{create}"
        );
        assert!(text.lines().any(|line| line.contains("900 MiB/s") && line.contains("met 0.89")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("| connections") && line.contains("**missed** |")), "{text}");
    }
}
