//! `pgfiles shell-hook`.

use crate::exit::{Exit, Result};
use crate::output;
use crate::shell_hook::Shell;

/// Print a shell function that re-enters the directory after `pgfiles mount .` and `pgfiles unmount .`
///
/// Turn it on with `eval "$(pgfiles shell-hook bash)"` in ~/.bashrc, the same with zsh in ~/.zshrc, or
/// `pgfiles shell-hook fish | source` in ~/.config/fish/config.fish.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  eval \"$(pgfiles shell-hook bash)\"")]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<Exit> {
    output::raw(args.shell.hook().as_bytes())?;
    Ok(Exit::Done)
}
