//! How a node of a tree is printed: as a name, as a line with columns, as JSON.

use std::fmt::Write as _;

use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Head, Kind};
use serde_json::{Value, json};

use crate::config::units;
use crate::exit::Result;
use crate::files::{Node, shown};
use crate::output;
use crate::service::versions;

/// How nodes are printed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Form {
    /// A JSON object per line.
    #[arg(long)]
    json: bool,
    /// Paths as they are, each with a NUL after it instead of a newline: for `xargs -0`.
    #[arg(short = '0', long = "null", conflicts_with = "json")]
    nul: bool,
}

impl Form {
    /// Prints a node.
    ///
    /// # Errors
    /// Stdout cannot be written to.
    pub fn print(self, node: &Node, long: bool) -> Result<()> {
        if self.json {
            return output::line(self::json(node));
        }
        if self.nul {
            return output::path(&node.path, true);
        }
        if long { output::line(self::long(node)) } else { output::line(name(node)) }
    }

    /// Prints a version of a file.
    ///
    /// # Errors
    /// As [`Form::print`].
    pub fn print_version(self, path: &str, head: &Head) -> Result<()> {
        if self.json {
            let mut value = json!({"path": path});
            merge(&mut value, versions::shown(head));
            return output::line(value);
        }
        if self.nul {
            return output::path(path, true);
        }
        let size = if head.is_live() { units::show_bytes(head.meta.size) } else { "deleted".into() };
        let time = head.meta.created_at.map(second).unwrap_or_default();
        output::line(format!("{:>7}  {size:>10}  {time:20}  {}", head.version.0, shown(path)))
    }
}

/// The path, and whether it is a directory.
fn name(node: &Node) -> String {
    let text = shown(&node.path);
    let kind = kind(node);
    let slash = if kind == Kind::Dir { "/" } else { "" };
    let colour = match kind {
        Kind::Dir => "1;34",
        Kind::Symlink => "36",
        Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => "33",
        Kind::File if mode(node) & 0o111 != 0 => "32",
        Kind::File => "",
    };
    match output::has_colours() && !colour.is_empty() {
        true => format!("\x1b[{colour}m{text}\x1b[0m{slash}"),
        false => format!("{text}{slash}"),
    }
}

pub(super) fn kind(node: &Node) -> Kind {
    match &node.entry {
        Entry::Dir(_) => Kind::Dir,
        Entry::File(head) => head.meta.kind,
    }
}

fn mode(node: &Node) -> u32 {
    let default = if node.is_dir() { 0o755 } else { 0o644 };
    node.head().and_then(|head| head.meta.mode).unwrap_or(default)
}

/// Mode, version, size, time, path.
fn long(node: &Node) -> String {
    let head = node.head();
    let version = head.filter(|_| !node.is_dir()).map_or_else(|| "-".into(), |head| head.version.0.to_string());
    let size = match kind(node) {
        Kind::File => head.map(|head| units::show_bytes(head.meta.size)).unwrap_or_default(),
        _ => "-".into(),
    };
    let time = head.and_then(|head| head.meta.mtime.or(head.meta.created_at)).map(second).unwrap_or_default();
    let mut line = format!("{}  {version:>7}  {size:>10}  {time:20}  {}", mode_text(kind(node), mode(node)), name(node));
    if let Some(target) = head.and_then(|head| head.meta.target.as_deref()) {
        let _ = write!(line, " -> {}", shown(target));
    }
    line
}

/// As `ls -l` shows it.
pub(super) fn mode_text(kind: Kind, mode: u32) -> String {
    let mut text = String::from(match kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::Char => 'c',
        Kind::Block => 'b',
    });
    for (shift, special, letters) in [(6, 0o4000, "sS"), (3, 0o2000, "sS"), (0, 0o1000, "tT")] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        let mut letters = letters.chars();
        let (small, large) = (letters.next().unwrap_or('x'), letters.next().unwrap_or('-'));
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, true) => 'x',
            (false, false) => '-',
            (true, true) => small,
            (true, false) => large,
        });
    }
    text
}

/// A moment, to the second.
pub(super) fn second(at: Timestamp) -> String {
    Timestamp { nanos: 0, ..at }.to_string()
}

/// The path and the fields of the version.
pub(super) fn json(node: &Node) -> Value {
    let mut value = json!({"path": node.path, "kind": kind(node).as_str()});
    if let Some(head) = node.head() {
        merge(&mut value, versions::shown(head));
    }
    value
}

fn merge(value: &mut Value, more: Value) {
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_those_of_ls() {
        assert_eq!(mode_text(Kind::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode_text(Kind::Dir, 0o1770), "drwxrwx--T");
        assert_eq!(mode_text(Kind::Symlink, 0o777), "lrwxrwxrwx");
    }
}
