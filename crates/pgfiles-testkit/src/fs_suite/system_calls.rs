//! What only a kernel can show: mappings, streams, locks, execution, sockets, other users. The calls are made by a Python
//! script, because each is a line there; a local disk passes it too.

use std::path::Path;
use std::process::{Command, Stdio};

const SCRIPT: &str = include_str!("system_calls.py");

/// Runs every check in a mounted directory, those that take other users only as root. Says why where there is no Python.
///
/// # Panics
/// Where one fails, with what was printed.
pub fn run_system_calls(root: &Path) {
    let mut command = Command::new("python3");
    command.arg("-c").arg(SCRIPT).arg(root).stdin(Stdio::null());
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            eprintln!("{said}");
            assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => eprintln!("skipped, because there is no python3: {error}"),
    }
}
