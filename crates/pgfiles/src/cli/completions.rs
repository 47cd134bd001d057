//! `pgfiles completions`.

use clap_complete::Shell;

use crate::exit::{Exit, Result};
use crate::output;

/// Print what a shell needs to complete commands and flags.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles completions bash > ~/.local/share/bash-completion/completions/pgfiles\n  pgfiles completions zsh > ~/.zfunc/_pgfiles\n  pgfiles completions fish > ~/.config/fish/completions/pgfiles.fish"
)]
pub(super) struct Args {
    /// For which shell.
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<Exit> {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "pgfiles", &mut script);
    output::raw(&script)?;
    Ok(Exit::Done)
}
