//! `pgfiles man`.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::exit::{Exit, Failure, Result};
use crate::output;

/// Print the manual page, or write a page for each command to a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles man | man -l -\n  pgfiles man --dir /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Write pgfiles.1 and pgfiles-COMMAND.1 there.
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<Exit> {
    // So that the page of each command names it, and has the settings.
    command.build();
    let Some(dir) = &args.dir else {
        output::raw(&page(&command, "pgfiles".into())?)?;
        return Ok(Exit::Done);
    };
    write(dir, &command, "pgfiles")?;
    Ok(Exit::Done)
}

fn page(command: &clap::Command, name: String) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    // A page is known by its name with hyphens, as those of git are.
    let written = Man::new(command.clone().name(name)).render(&mut page);
    written.map_err(|error| Failure::io("cannot write the page", &error))?;
    Ok(page)
}

fn write(dir: &std::path::Path, command: &clap::Command, name: &str) -> Result<()> {
    let at = dir.join(format!("{name}.1"));
    let written = std::fs::write(&at, page(command, name.to_owned())?);
    written.map_err(|error| Failure::io(format!("cannot write {}", at.display()), &error))?;
    let shown = |below: &&clap::Command| !below.is_hide_set() && below.get_name() != "help";
    command.get_subcommands().filter(shown).try_for_each(|below| write(dir, below, &format!("{name}-{}", below.get_name())))
}
