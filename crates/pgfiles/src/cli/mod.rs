//! The command line: a subcommand per file, each with its arguments and its run.
//!
//! The flags of all settings are made from [`crate::config::env::SETTINGS`], so that flag, variable, key and docs cannot
//! differ. stdout is the answer, stderr is talk.

mod access;
mod batch;
mod cache;
mod cat;
mod completions;
mod config;
mod cp;
mod doctor;
mod du;
mod entry;
mod exec;
mod export;
mod find;
mod flush;
mod get;
mod import;
mod init;
pub mod locate;
mod ls;
mod man;
mod mount;
mod purge;
mod put;
mod reach;
mod restore;
mod rm;
mod serve_nfs;
mod shell_hook;
mod stat;
mod status;
mod unmount;
mod version;
mod warmup;
mod where_am_i;

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::Settings;
use crate::config::env::SETTINGS;
use crate::exit::{Exit, Failure, Result};
use crate::output;
use crate::registry::Dirs;

/// A directory that lives in Postgres: every save is a version.
#[derive(Debug, Parser)]
#[command(name = "pgfiles", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Mount(mount::Args),
    Unmount(unmount::Args),
    Where(where_am_i::Args),
    Status(status::Args),
    Version(version::Args),
    Restore(restore::Args),
    Purge(purge::Args),
    PurgePrefix(purge::PrefixArgs),
    Batch(batch::Args),
    #[command(subcommand)]
    Cache(cache::Command),
    #[command(subcommand)]
    Config(config::Command),
    Ls(ls::Args),
    Cat(cat::Args),
    Put(put::Args),
    Get(get::Args),
    Cp(cp::CopyArgs),
    Mv(cp::MoveArgs),
    Rm(rm::Args),
    Stat(stat::Args),
    Find(find::Args),
    Du(du::Args),
    Import(import::Args),
    Export(export::Args),
    Exec(exec::Args),
    Warmup(warmup::Args),
    Flush(flush::Args),
    ServeNfs(serve_nfs::Args),
    Doctor(doctor::Args),
    ShellHook(shell_hook::Args),
    Completions(completions::Args),
    Man(man::Args),
    Grant(access::GrantArgs),
    Revoke(access::RevokeArgs),
    Grants(access::GrantsArgs),
    /// Serves a mount; run by `mount`.
    #[command(name = crate::daemon::SUBCOMMAND, hide = true)]
    Daemon {
        /// Shown by `ps`; the order says it, too.
        mountpoint: Option<OsString>,
    },
    /// Takes a mount away when its daemon is gone; run by it.
    #[command(name = crate::daemon::WATCH, hide = true)]
    Watch {
        /// Absolute.
        mountpoint: std::path::PathBuf,
        /// Where the daemon serves, if on a port.
        port: Option<std::net::SocketAddr>,
    },
}

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// All settings.
    pub settings: Settings,
    /// Where live mounts are found.
    pub dirs: Dirs,
}

/// Runs a command line and returns the exit code. Errors have been printed.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    match parse(args) {
        Ok((cli, flags)) => finish(cli.execute(&flags)),
        Err(error) => {
            // --help and --version come as errors, too, and go to stdout.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.code() } else { Exit::Done.code() }
        }
    }
}

fn finish(done: Result<Exit>) -> u8 {
    match done {
        Ok(exit) => exit.code(),
        Err(failure) => {
            output::say(&failure);
            failure.exit.code()
        }
    }
}

fn parse(args: impl Iterator<Item = OsString>) -> std::result::Result<(Cli, BTreeMap<&'static str, String>), clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    Ok((Cli::from_arg_matches(&matches)?, flags(&matches)))
}

/// The derived command with a flag per setting.
fn command() -> clap::Command {
    let mut command = Cli::command();
    for s in SETTINGS {
        let mut arg = Arg::new(s.key).long(s.flag).global(true).value_name("VALUE").action(ArgAction::Set);
        arg = arg
            .help(s.doc)
            .help_heading("Settings (before or after the command; see docs/configuration.md)")
            .hide_short_help(true);
        if s.is_switch() {
            arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        }
        command = command.arg(arg);
    }
    command
}

fn flags(matches: &ArgMatches) -> BTreeMap<&'static str, String> {
    SETTINGS.iter().filter_map(|s| Some((s.key, matches.get_one::<String>(s.key)?.clone()))).collect()
}

fn exit_codes() -> String {
    let all: Vec<String> = Exit::ALL.iter().map(|(exit, what)| format!("  {}  {what}", exit.code())).collect();
    format!(
        "Settings are flags, PGFILES_ variables or lines of ~/.config/pgfiles/config.yaml: `pgfiles --help` lists them all.\n\nExit codes:\n{}",
        all.join("\n")
    )
}

impl Cli {
    fn execute(self, flags: &BTreeMap<&'static str, String>) -> Result<Exit> {
        match &self.command {
            Command::Daemon { .. } => return crate::daemon::main(),
            Command::Watch { mountpoint, port } => return crate::daemon::watch(mountpoint, *port).map(|()| Exit::Done),
            // Needs no settings, and is read by shells at every start.
            Command::ShellHook(args) => return shell_hook::run(args),
            Command::Completions(args) => return completions::run(args, command()),
            Command::Man(args) => return man::run(args, command()),
            _ => {}
        }
        let var = |name: &str| std::env::var(name).ok();
        let context = Context { settings: Settings::resolve(flags, var)?, dirs: Dirs::of_process() };
        // A mount re-executes itself, so its part needs no runtime.
        if let Command::Mount(args) = &self.command {
            return mount::run(context, args);
        }
        if let Command::Exec(args) = &self.command {
            return exec::run(&context, args);
        }
        if let Command::ServeNfs(args) = &self.command {
            return serve_nfs::run(&context, args);
        }
        log_to_stderr(&context.settings);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::io("cannot start", &error))?;
        let done = runtime.block_on(self.command.run(context));
        // A connection that does not answer must not hold the command up.
        runtime.shutdown_background();
        done
    }
}

impl Command {
    async fn run(self, context: Context) -> Result<Exit> {
        match self {
            Command::Init(args) => init::run(context, args).await,
            Command::Unmount(args) => unmount::run(context, args).await,
            Command::Where(args) => where_am_i::run(context, args).await,
            Command::Status(args) => status::run(context, args).await,
            Command::Version(args) => version::run(context, args).await,
            Command::Restore(args) => restore::run(context, args).await,
            Command::Purge(args) => purge::run(context, args).await,
            Command::PurgePrefix(args) => purge::run_prefix(context, args).await,
            Command::Batch(args) => batch::run(context, args).await,
            Command::Cache(command) => cache::run(context, command).await,
            Command::Config(command) => config::run(&context, &command),
            Command::Ls(args) => ls::run(context, args).await,
            Command::Cat(args) => cat::run(context, args).await,
            Command::Put(args) => put::run(context, args).await,
            Command::Get(args) => get::run(context, args).await,
            Command::Cp(args) => cp::copy(context, args).await,
            Command::Mv(args) => cp::rename(context, args).await,
            Command::Rm(args) => rm::run(context, args).await,
            Command::Stat(args) => stat::run(context, args).await,
            Command::Find(args) => find::run(context, args).await,
            Command::Du(args) => du::run(context, args).await,
            Command::Import(args) => import::run(context, args).await,
            Command::Export(args) => export::run(context, args).await,
            Command::Warmup(args) => warmup::run(context, args).await,
            Command::Flush(args) => flush::run(context, args).await,
            Command::Doctor(args) => doctor::run(context, args).await,
            Command::Grant(args) => access::grant(context, args).await,
            Command::Revoke(args) => access::revoke(context, args).await,
            Command::Grants(args) => access::grants(context, args).await,
            Command::Mount(_)
            | Command::Exec(_)
            | Command::ServeNfs(_)
            | Command::ShellHook(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Daemon { .. }
            | Command::Watch { .. } => Err(Failure::failed("handled before")),
        }
    }
}

/// Commands log to stderr what `--log-level` asks for.
fn log_to_stderr(settings: &Settings) {
    crate::daemon::log_to(settings.log_level, std::io::stderr);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command, path: &str) {
            for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
                let path = format!("{path} {}", below.get_name());
                let help = below.get_after_help().map(ToString::to_string).unwrap_or_default();
                let examples = help.split_once("Examples:\n").map(|(_, examples)| examples).unwrap_or_default();
                assert!(examples.contains(&path), "{path}: {help:?}");
                check(below, &path);
            }
        }
        check(&command(), "pgfiles");
    }

    #[test]
    fn settings_stand_before_or_after_the_command() {
        for line in [["pgfiles", "--pool-size", "4", "status"], ["pgfiles", "status", "--pool-size", "4"]] {
            let (_, flags) = parse(line.iter().map(OsString::from)).unwrap();
            assert_eq!(flags.get("pool_size").map(String::as_str), Some("4"), "{line:?}");
        }
        let (_, flags) = parse(["pgfiles", "--read-only", "status"].iter().map(OsString::from)).unwrap();
        assert_eq!(flags["read_only"], "true");
    }
}
