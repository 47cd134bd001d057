//! `pgfiles doctor`: the report. What is looked at on the machine is here, what is asked of the server in [`server`], contents in [`verify`].

mod server;
mod verify;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use super::Context;
use super::mount::{check_fuse, check_nfs};
use crate::config::{secret, units};
use crate::exit::{Exit, Result};
use crate::{mount_table, output};

/// Check what pgfiles needs and what it finds, and say what to do about each thing that is not right.
///
/// Looks at the settings, the server, the rights, the schema and the rows under the prefix, the cache, FUSE, and mounts
/// of daemons that were killed. Changes nothing. Exit code 1 if something does not work.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles doctor\n  pgfiles doctor --verify results\n  pgfiles doctor --json | jq")]
pub(super) struct Args {
    /// Compare all contents, of every version, with their checksums too: of what lies at PATH, or under the prefix.
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    verify: Option<Option<OsString>>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Works, but not as one may expect.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the report.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    remedy: String,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, message: message.into(), remedy: String::new() }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, message: message.into(), remedy: remedy.into() }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, message: message.into(), remedy: remedy.into() }
    }
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let mut found = vec![settings(&context), cache(&context), door()];
    found.extend(mounts(&context));
    found.extend(server::check(&context).await);
    if let Some(path) = &args.verify {
        found.push(verify::verify(&context, path.as_deref()).await?);
    }
    if args.json {
        let all = found.iter().map(|f| {
            let remedy = (!f.remedy.is_empty()).then_some(&f.remedy);
            json!({"check": f.check, "verdict": word(f.verdict), "message": f.message, "remedy": remedy})
        });
        output::json(&all.collect())?;
    } else {
        for finding in &found {
            output::line(format!("{:<4}  {:<9}  {}", word(finding.verdict), finding.check, finding.message))?;
            if !finding.remedy.is_empty() {
                output::line(format!("                 → {}", finding.remedy))?;
            }
        }
    }
    Ok(if found.iter().any(|f| f.verdict == Verdict::Fail) { Exit::Failed } else { Exit::Done })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}

/// They were read, or the command would not be here; typing errors in variables are found by what is similar.
fn settings(context: &Context) -> Finding {
    let known = |name: &str| crate::config::env::SETTINGS.iter().any(|s| s.variable == name) || name == crate::shell_hook::ACTIVE;
    let stray: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("PGFILES_") && !known(name))
        .collect();
    if !stray.is_empty() {
        let named = stray.iter().map(|name| {
            let key = name.trim_start_matches("PGFILES_").to_ascii_lowercase();
            let meant = crate::config::env::nearest(&key).and_then(crate::config::env::setting);
            meant.map_or_else(|| name.clone(), |meant| format!("{name} (is {} meant?)", meant.variable))
        });
        let message = format!("no such setting: {}", named.collect::<Vec<_>>().join(", "));
        return Finding::warn("settings", message, "`pgfiles config show` lists the settings; unset the others");
    }
    let dsn = context.settings.dsn.as_deref().map_or_else(|| "no DSN".into(), secret::mask_dsn);
    Finding::ok("settings", format!("{dsn}, prefix {:?}", context.settings.prefix))
}

fn cache(context: &Context) -> Finding {
    let dir = &context.settings.cache_dir;
    let shown = dir.display();
    if let Err(failure) = crate::registry::make_private(dir) {
        return Finding::warn(
            "cache",
            failure.message,
            "set PGFILES_CACHE_DIR to a directory of your own; mounts work without, slower",
        );
    }
    let probe = dir.join(format!("doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe));
    if let Err(error) = written {
        let message = format!("{shown} cannot be written to: {}", crate::exit::plain(&error));
        return Finding::warn("cache", message, "make room or set PGFILES_CACHE_DIR; mounts work without, slower");
    }
    let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let max = context.settings.cache_max_size;
    if free < max {
        let message = format!("{shown} has {} free, the cache may grow to {}", units::show_bytes(free), units::show_bytes(max));
        return Finding::warn("cache", message, "lower PGFILES_CACHE_MAX_SIZE or set PGFILES_CACHE_DIR");
    }
    Finding::ok("cache", format!("{shown}, at most {}", units::show_bytes(max)))
}

/// What `mount` needs of the system.
fn door() -> Finding {
    let linux = cfg!(target_os = "linux");
    let (name, checked) = if linux { ("fuse", check_fuse()) } else { ("nfs", check_nfs()) };
    if let Err(failure) = checked {
        return Finding::fail(name, failure.message, "mounting needs it; the commands that need no mount work without");
    }
    if !linux {
        return Finding::ok(name, "mount_nfs is there");
    }
    let mode = std::fs::metadata("/dev/fuse").map_or(0, |meta| meta.mode() & 0o777);
    Finding::ok(name, format!("/dev/fuse can be opened (mode {mode:04o})"))
}

fn mounts(context: &Context) -> Vec<Finding> {
    let listed = context.dirs.list();
    let mut found: Vec<Finding> = Vec::new();
    for dead in listed.iter().filter(|listed| !listed.alive) {
        let at = dead.mount.mountpoint.display();
        found.push(Finding::warn("mounts", format!("the daemon of {at} was killed"), format!("run `pgfiles unmount {at}`")));
    }
    let live: Vec<_> = listed.iter().filter(|listed| listed.alive).collect();
    for mounted in mount_table::all().into_iter().filter(mount_table::Mounted::is_ours) {
        let known = listed.iter().any(|listed| listed.mount.mountpoint == mounted.at);
        let at = mounted.at.display();
        if !known && mount_table::is_dead(&mounted.at) {
            found.push(Finding::warn(
                "mounts",
                format!("{at} is mounted and nobody serves it"),
                format!("run `pgfiles unmount {at}`"),
            ));
        }
    }
    for mount in live {
        let at = mount.mount.mountpoint.display();
        if !mount_table::at(&mount.mount.mountpoint).is_some_and(|mounted| mounted.is_ours()) {
            let message = format!("the daemon of {at} runs, but nothing is mounted there (another container?)");
            found.push(Finding::warn("mounts", message, format!("look at {}", mount.mount.log.display())));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("mounts", format!("{} live", listed.len())));
    }
    found
}
