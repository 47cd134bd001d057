//! The `pgfiles` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A keeper of a private server is this program under another name of its own: it has no command line.
    if let Some(code) = pgfiles::local::keeper_if_asked(std::env::args_os()) {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    ExitCode::from(pgfiles::cli::run(std::env::args_os()))
}
