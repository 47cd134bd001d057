//! Where a path argument leads: into a live mount, whose daemon then does the work, or to a key on the server of the
//! settings.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use pgfiles_store::{Key, Name, Prefix};
use serde_json::Value;

use super::Context;
use crate::connect;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Failure, Result};
use crate::output::Terminal;
use crate::registry::{Dirs, Mount};
use crate::service::{Request, Target};

/// How long the kernel may take to follow symlinks inside a mount, before the path is taken as it is written.
const FOLLOW_WAIT: Duration = Duration::from_secs(2);

/// Where a command goes.
#[derive(Debug)]
pub enum Route {
    /// To the daemon of that mount.
    Daemon(Box<Mount>),
    /// To the server of the settings.
    Direct,
}

impl Context {
    /// A path argument: `key:` and a whole key, a local path in a mount, or a path under the prefix.
    ///
    /// # Errors
    /// It leads nowhere: the sentence says what a path may be.
    pub fn locate(&self, arg: &OsStr) -> Result<(Route, Target)> {
        let shown = arg.to_string_lossy().into_owned();
        if let Some(key) = shown.strip_prefix("key:") {
            return self.locate_key(key);
        }
        let path = absolute(Path::new(arg))?;
        let mounts = self.dirs.list();
        let inside = |mountpoint: &Path| path.strip_prefix(mountpoint).ok().map(Path::to_owned);
        let nearest =
            mounts.iter().filter(|m| path.starts_with(&m.mount.mountpoint)).max_by_key(|m| m.mount.mountpoint.as_os_str().len());
        if let Some((listed, below)) = nearest.and_then(|m| Some((m, inside(&m.mount.mountpoint)?))) {
            if !listed.alive {
                let at = listed.mount.mountpoint.display();
                return Err(Failure::failed(format!(
                    "the daemon of the mount on {at} was killed: run `pgfiles unmount {at}`, then mount again"
                )));
            }
            let mount = listed.mount.clone();
            let wants_dir = arg.as_bytes().ends_with(b"/") || below.as_os_str().is_empty();
            let key = key_below(&mount.prefix, &follow(&mount.mountpoint, below), wants_dir)?;
            return Ok((Route::Daemon(Box::new(mount)), Target { key, shown }));
        }
        if Path::new(arg).is_absolute() {
            let why = "lies in none of your mounts, and a path under the prefix does not begin with /; `pgfiles status` lists the mounts";
            return Err(Failure::not_found(format!("{shown} {why}")));
        }
        let wants_dir = arg.as_bytes().ends_with(b"/");
        let key = key_below(self.settings.prefix.as_str(), &plain(Path::new(arg), &shown)?, wants_dir)?;
        Ok((self.route(&key)?, Target { key, shown }))
    }

    /// A whole key; refused outside the prefix that is set.
    ///
    /// # Errors
    /// It lies outside, or is no key.
    pub fn locate_key(&self, key: &str) -> Result<(Route, Target)> {
        let prefix = &self.settings.prefix;
        if !key.is_empty() {
            Key::new(key).map_err(|error| Failure::usage(format!("key {key:?}: {error}")))?;
        }
        if key.starts_with('/') {
            return Err(Failure::usage(format!("key {key:?}: keys that begin with / are pgfiles' own")));
        }
        let within = key.starts_with(prefix.as_str()) || format!("{key}/") == prefix.as_str();
        if !within {
            return Err(Failure::usage(format!(
                "key {key:?} lies outside the prefix {prefix:?}: unset PGFILES_PREFIX to reach it"
            )));
        }
        Ok((self.route(key)?, Target { key: key.to_owned(), shown: key.to_owned() }))
    }

    /// The live mount of the same server that shows a key, the nearest one; else directly.
    ///
    /// # Errors
    /// No DSN, or one that does not parse.
    pub fn route(&self, key: &str) -> Result<Route> {
        let place = connect::place(self.settings.dsn()?)?;
        let shows = |mount: &Mount| {
            mount.place == place && key.starts_with(&mount.prefix) && (!mount.read_only || self.settings.read_only)
        };
        let mut mounts: Vec<Mount> = self.dirs.live().into_iter().filter(shows).collect();
        mounts.sort_by_key(|mount| mount.prefix.len());
        Ok(mounts.pop().map_or(Route::Direct, |mount| Route::Daemon(Box::new(mount))))
    }

    /// Carries a request out where it belongs, and tells other mounts of this user that show what it changed.
    ///
    /// # Errors
    /// What the daemon or the server says.
    pub async fn execute(&self, route: &Route, request: Request) -> Result<Value> {
        let terminal = Terminal::default();
        match route {
            Route::Daemon(mount) => client::call(mount, &Call::Serve(request), &terminal).await,
            Route::Direct => {
                let server = connect::open(self).await?;
                let answer = server.service.run(request, &terminal).await?;
                self.tell(&answer.changed).await;
                Ok(answer.value)
            }
        }
    }

    /// Tells live mounts of the same server which keys a direct command changed. What cannot be told is seen after the
    /// time to live.
    pub async fn tell(&self, changed: &[Key]) {
        let Some(place) = self.settings.dsn.as_deref().and_then(|dsn| connect::place(dsn).ok()) else { return };
        for mount in self.dirs.live().into_iter().filter(|mount| mount.place == place) {
            let shows = |key: &&Key| key.as_str().starts_with(&mount.prefix) || mount.prefix.starts_with(key.as_str());
            let keys: Vec<String> = changed.iter().filter(shows).map(|key| key.as_str().to_owned()).collect();
            if keys.is_empty() {
                continue;
            }
            let call = Call::Changed { keys };
            let told = tokio::time::timeout(Duration::from_secs(2), client::call(&mount, &call, &Terminal::default())).await;
            if !matches!(told, Ok(Ok(_))) {
                tracing::warn!(mount = %mount.mountpoint.display(), "could not be told of the change");
            }
        }
    }
}

/// The path from `/`, without `.` and `..`, symlinks followed up to the first mount of ours. Touches no mount.
///
/// # Errors
/// The working directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let start = if path.is_absolute() {
        PathBuf::from("/")
    } else {
        std::env::current_dir().map_err(|error| Failure::io("the working directory is gone: run `cd` first", &error))?
    };
    let stops: Vec<PathBuf> = Dirs::of_process().list().into_iter().map(|listed| listed.mount.mountpoint).collect();
    Ok(walk(&start, path, &stops))
}

/// Symlinks followed per path, as in the kernel.
const SYMLINKS_MAX: u32 = 40;

fn walk(start: &Path, path: &Path, stops: &[PathBuf]) -> PathBuf {
    let mut at = PathBuf::from("/");
    let mut rest: Vec<OsString> = start.join(path).components().rev().map(|c| c.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::Normal(name)) => {
                at.push(name);
                let inside = stops.iter().any(|stop| at.starts_with(stop));
                let link = if inside || links >= SYMLINKS_MAX { None } else { std::fs::read_link(&at).ok() };
                if let Some(link) = link {
                    links += 1;
                    at.pop();
                    rest.extend(link.components().rev().map(|c| c.as_os_str().to_owned()));
                }
            }
            _ => {}
        }
    }
    at
}

/// Follows symlinks of directories inside a mount, as far as they exist, if the kernel answers soon.
fn follow(mountpoint: &Path, below: PathBuf) -> PathBuf {
    let whole = mountpoint.join(&below);
    let root = mountpoint.to_owned();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut tail: Vec<OsString> = whole.file_name().map(OsStr::to_owned).into_iter().collect();
        let mut dir = whole.parent().map(Path::to_owned);
        let found = loop {
            match dir.as_deref().filter(|dir| dir.starts_with(&root)).map(|dir| (dir.to_owned(), dir.canonicalize())) {
                Some((_, Ok(real))) => break real.strip_prefix(&root).ok().map(Path::to_owned),
                Some((failed, Err(_))) => {
                    tail.extend(failed.file_name().map(OsStr::to_owned));
                    dir = failed.parent().map(Path::to_owned);
                }
                None => break None,
            }
        };
        let _ = send.send(found.map(|dir| tail.iter().rev().fold(dir, |dir, name| dir.join(name))));
    });
    receive.recv_timeout(FOLLOW_WAIT).ok().flatten().unwrap_or(below)
}

/// A path under the prefix: relative, without `..`.
fn plain(path: &Path, shown: &str) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return Err(Failure::usage(format!("{shown}: a path under the prefix has no `..`"))),
        }
    }
    Ok(out)
}

/// The whole key of a path below a prefix; of the prefix itself for an empty path.
fn key_below(prefix: &str, path: &Path, wants_dir: bool) -> Result<String> {
    let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let mut key = prefix.to_owned();
    for part in path.components() {
        let name = Name::new(part.as_os_str().as_bytes()).map_err(|error| bad(&error))?;
        if !key.is_empty() && !key.ends_with('/') {
            key.push('/');
        }
        key.push_str(&name.component());
    }
    if wants_dir && !key.is_empty() && !key.ends_with('/') {
        key.push('/');
    }
    // It may be longer than a key can be: the service finds where such a path is kept.
    Ok(key)
}

/// A prefix argument as a whole key that ends in `/`.
///
/// # Errors
/// It is no prefix.
pub fn prefix_arg(text: &str) -> Result<Prefix> {
    Prefix::new(text).map_err(|error| Failure::usage(format!("prefix {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_keys() {
        assert_eq!(key_below("agents/7/", Path::new("a/b.txt"), false).unwrap(), "agents/7/a/b.txt");
        assert_eq!(key_below("agents/7/", Path::new("a"), true).unwrap(), "agents/7/a/");
        assert_eq!(key_below("agents/7/", Path::new(""), true).unwrap(), "agents/7/");
        assert_eq!(key_below("", Path::new(""), true).unwrap(), "");
        assert!(plain(Path::new("../x"), "../x").is_err());
    }

    #[test]
    fn symlinks_are_followed_up_to_a_mount() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", root.join("link")).unwrap();
        let stops = [root.join("mnt")];
        assert_eq!(walk(&root, Path::new("link/a/../b"), &stops), root.join("mnt/b"));
        assert_eq!(walk(&root, Path::new("./mnt/./x"), &stops), root.join("mnt/x"));
    }
}
