//! Where a process stands: in what its path shows, underneath a mount that came later, or in one that is gone.
//!
//! The kernel keeps the directory itself as a process's working directory, not its path. So `.` and the path that `getcwd` gives for it
//! can be two directories; they are told apart by device and inode number. Sentences for `mount`, `unmount` and `where` are made here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mount_table;
use crate::shell_hook::{self, Shell};

/// How many names a warning lists.
const NAMES_SHOWN: usize = 5;

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the directory that its path leads to.
    Here(PathBuf),
    /// In a directory over which something was mounted since: its relative paths do not enter the mount.
    Underneath {
        /// The path, which now leads into the mount.
        path: PathBuf,
        /// The mount point, where it can be told (Linux).
        mountpoint: Option<PathBuf>,
        /// Names in the directory underneath, sorted: they are on the local disk and nowhere else.
        names: Vec<String>,
    },
    /// In a mount that has been unmounted since; the path is what the environment's PWD says, if anything.
    Gone(Option<PathBuf>),
}

impl Standing {
    /// Of this process. Looks at the mount, so it waits for it if it is slow.
    pub fn of_me() -> Standing {
        let shown = std::env::var_os("PWD").map(PathBuf::from);
        Standing::of(Path::new("."), std::env::current_dir().ok(), shown)
    }

    /// Of another process; None where the system does not tell (no /proc, another user's, ended).
    pub fn of_process(pid: u32) -> Option<Standing> {
        let link = PathBuf::from(format!("/proc/{pid}/cwd"));
        let path = std::fs::read_link(&link).ok()?;
        // What is gone reads as "/path (deleted)" or relative, without its mount.
        Some(Standing::of(&link, Some(path).filter(|path| path.is_absolute()), None))
    }

    fn of(directory: &Path, path: Option<PathBuf>, shown: Option<PathBuf>) -> Standing {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let (Some(path), Some(standing)) = (path.clone(), identity(directory)) else { return Standing::Gone(path.or(shown)) };
        match identity(&path) {
            Some(leads_to) if leads_to == standing => Standing::Here(path),
            Some(_) => {
                let mountpoint = mount_table::over(&path);
                Standing::Underneath { mountpoint, names: names_in(directory), path }
            }
            // The mount has no such directory: underneath all the same, if there is a mount on the way.
            None => match mount_table::over(&path).filter(|mountpoint| mountpoint != Path::new("/")) {
                Some(mountpoint) if identity(&mountpoint).is_some_and(|(device, _)| device != standing.0) => {
                    Standing::Underneath { mountpoint: Some(mountpoint), names: names_in(directory), path }
                }
                _ => Standing::Gone(Some(path)),
            },
        }
    }

    /// What `where` says of it and what to do, in a sentence or two; None when all is as it looks.
    pub fn explain(&self) -> Option<String> {
        match self {
            Standing::Here(_) => None,
            Standing::Underneath { path, mountpoint, names } => {
                let over = mountpoint.as_deref().unwrap_or(path);
                let mut said = format!(
                    "you stand in the directory underneath the mount on {}, which was mounted after you entered it: run `cd .` to enter the mount",
                    over.display()
                );
                if !names.is_empty() {
                    said += &format!(
                        ". This directory holds {}, on the local disk and not in Postgres: move it into the mount",
                        list(names)
                    );
                }
                Some(said)
            }
            Standing::Gone(Some(path)) => {
                Some(format!("you stand in a directory that is gone (it was {}): run `cd {}`", path.display(), shell_word(path)))
            }
            Standing::Gone(None) => Some("you stand in a directory that is gone: `cd` to where you want to be".to_owned()),
        }
    }
}

/// What `mount` says on stderr when it has mounted over the directory in which the program that called it stands. None when that one stands
/// elsewhere, or when the shell's hook re-enters by itself.
pub fn mount_hint() -> Option<String> {
    if std::env::var_os(shell_hook::ACTIVE).is_some() {
        return None;
    }
    let parent = std::os::unix::process::parent_id();
    let standing = Standing::of_process(parent).unwrap_or_else(Standing::of_me);
    let Standing::Underneath { .. } = standing else { return None };
    let shell = std::fs::read_to_string(format!("/proc/{parent}/comm"))
        .ok()
        .and_then(|name| Shell::of_program(Path::new(name.trim())))
        .or_else(|| Shell::of_program(Path::new(&std::env::var_os("SHELL")?)));
    let always = shell.map(|shell| format!("; to have that done for you, {}", shell.how_to_turn_on())).unwrap_or_default();
    Some(format!("mounted, and you still stand in the directory underneath: run `cd .` to enter{always}"))
}

/// After an unmount: what the mount point's own directory holds. Empty also when it cannot be read.
pub fn left_underneath(mountpoint: &Path) -> Vec<String> {
    names_in(mountpoint)
}

/// What `unmount` says of them; `before` are the names that were there already when it was mounted (`--allow-nonempty`).
pub fn unmount_warning(mountpoint: &Path, before: &[String]) -> Option<String> {
    let names: Vec<String> = left_underneath(mountpoint).into_iter().filter(|name| !before.contains(name)).collect();
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "{} holds {}, written underneath while it was mounted by a program that had entered it before: on the local disk, not in Postgres. \
         Move it away, mount again, and move it in",
        mountpoint.display(),
        list(&names)
    ))
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| format!("{name:?}")).collect();
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A path as one types it.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,~".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_place_needs_no_words() {
        assert!(matches!(Standing::of_me(), Standing::Here(_)));
        assert_eq!(Standing::of_me().explain(), None);
    }

    #[test]
    fn names_are_cut_short() {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(String::from).into();
        assert_eq!(list(&names), r#""a", "b", "c", "d", "e" and 2 more"#);
        assert_eq!(shell_word(Path::new("/a b's")), r"'/a b'\''s'");
    }

    #[test]
    fn names_left_underneath_are_told_but_not_those_from_before() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("old"), "").expect("written");
        let before = left_underneath(dir.path());
        assert_eq!(unmount_warning(dir.path(), &before), None);
        std::fs::write(dir.path().join("new"), "").expect("written");
        let said = unmount_warning(dir.path(), &before).expect("a warning");
        assert!(said.contains("\"new\"") && !said.contains("\"old\""), "{said}");
    }
}
