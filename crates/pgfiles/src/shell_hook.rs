//! What `pgfiles shell-hook` prints: a function for the shell that re-enters the working directory after a successful mount or unmount.
//!
//! A process stays in the directory that it stands in when something is mounted over it. A program cannot move its shell; a
//! function can. It compares `.` with `$PWD`, so it needs no knowledge of the arguments, and a mount elsewhere moves nothing. `cd -`, `CDPATH`
//! and the user's own `cd` are left alone. While it runs the command it sets `PGFILES_SHELL_HOOK`, so that `mount` keeps its hint to itself.

use std::path::Path;

/// Set by the hook in the environment of `mount` and `unmount`.
pub const ACTIVE: &str = "PGFILES_SHELL_HOOK";

/// A shell that there is a hook for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// GNU Bash, from 3.2 (macOS's).
    Bash,
    /// Z shell, from 5.0.
    Zsh,
    /// fish, from 3.1.
    Fish,
}

impl Shell {
    /// The text to evaluate in the shell.
    pub fn hook(self) -> &'static str {
        match self {
            Shell::Bash => include_str!("shell_hook/hook.bash"),
            Shell::Zsh => include_str!("shell_hook/hook.zsh"),
            Shell::Fish => include_str!("shell_hook/hook.fish"),
        }
    }

    /// The line that turns the hook on, and the file it belongs in.
    pub fn how_to_turn_on(self) -> &'static str {
        match self {
            Shell::Bash => "add `eval \"$(pgfiles shell-hook bash)\"` to ~/.bashrc",
            Shell::Zsh => "add `eval \"$(pgfiles shell-hook zsh)\"` to ~/.zshrc",
            Shell::Fish => "add `pgfiles shell-hook fish | source` to ~/.config/fish/config.fish",
        }
    }

    /// The shell of a path such as `/bin/zsh` or `-bash` (a login shell), if there is a hook for it.
    pub fn of_program(program: &Path) -> Option<Shell> {
        match program.file_name()?.to_str()?.trim_start_matches('-') {
            "bash" => Some(Shell::Bash),
            "zsh" => Some(Shell::Zsh),
            "fish" => Some(Shell::Fish),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_known_by_their_program() {
        assert_eq!(Shell::of_program(Path::new("/usr/bin/zsh")), Some(Shell::Zsh));
        assert_eq!(Shell::of_program(Path::new("-bash")), Some(Shell::Bash));
        assert_eq!(Shell::of_program(Path::new("/opt/homebrew/bin/fish")), Some(Shell::Fish));
        assert_eq!(Shell::of_program(Path::new("/bin/sh")), None);
    }
}
