//! `pgfiles mount`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Context;
use super::locate::absolute;
use crate::config::secret;
use crate::connect::{self, Login};
use crate::daemon::{self, Order};
use crate::exit::{Exit, Failure, Result};
use crate::{mount_table, output, where_};

/// How long a daemon whose mount is dead may take to be gone, and how often it is looked.
const DYING_WAIT: Duration = Duration::from_secs(10);
const DYING_POLL: Duration = Duration::from_millis(10);

/// Show what lies under the prefix as a directory. Returns when it answers; a daemon serves it from then on.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "pgfiles mount [OPTIONS] [DSN] <PATH>",
    after_help = "Examples:\n  pgfiles mount local: ./work\n  PGFILES_PREFIX=agents/7 pgfiles mount postgres://app@db.example.com/files /workspace\n  pgfiles mount --foreground --allow-other /workspace"
)]
pub(super) struct Args {
    /// The server (the setting `dsn` if missing) and the directory to mount on.
    #[arg(value_names = ["DSN", "PATH"], num_args = 1..=2, required = true)]
    place: Vec<String>,
    /// Stay in the foreground and log to stderr, for containers.
    #[arg(long, short)]
    foreground: bool,
    /// Mount over a directory that holds files: they are hidden until unmounted.
    #[arg(long)]
    allow_nonempty: bool,
    #[command(flatten)]
    door: DoorArgs,
}

/// How programs come in.
#[derive(Debug, clap::Args)]
pub(super) struct DoorArgs {
    /// How programs come in: `fuse`, the default on Linux, or `nfs`, the default on macOS.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// With `nfs`, more options for the system's client, as nfs(5) and mount_nfs(8) name them, with commas between; on macOS `namedattr`
    /// has it keep extended attributes as such and not in `._` files.
    #[arg(long, short = 'o', value_name = "OPTIONS")]
    nfs_options: Option<String>,
    /// Let other users in (always so for a root mount with stored owners).
    #[arg(long)]
    allow_other: bool,
}

/// See [`Args`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    /// The kernel's FUSE.
    Fuse,
    /// An NFS v4.1 server of our own, which the system's client mounts.
    Nfs,
}

pub(super) fn run(mut context: Context, args: &Args) -> Result<Exit> {
    let path = match args.place.as_slice() {
        [dsn, path] => {
            context.settings.set_dsn(dsn);
            path
        }
        [path] => path,
        _ => return Err(Failure::usage("mount takes a DSN and a path")),
    };
    if args.place.len() == 1 && looks_like_dsn(path) {
        return Err(Failure::usage(format!("{} is a DSN: name the directory to mount on, too", secret::mask_dsn(path))));
    }
    let order = Order { foreground: args.foreground, ..order(&context, Path::new(path), args.allow_nonempty, &args.door)? };
    let order = if args.foreground { Order { log: PathBuf::new(), ..order } } else { order };
    if args.foreground {
        return Err(daemon::become_daemon(&order));
    }
    daemon::launch(&order)?;
    if let Some(hint) = where_::mount_hint() {
        output::say(hint);
    }
    Ok(Exit::Done)
}

/// What a daemon is told that mounts on a path.
///
/// # Errors
/// No DSN; the path cannot be mounted on; the door cannot be used here.
pub(super) fn order(context: &Context, path: &Path, allow_nonempty: bool, door: &DoorArgs) -> Result<Order> {
    let dsn = context.settings.dsn()?.to_owned();
    let place = connect::place(&dsn)?;
    let mountpoint = check_mountpoint(context, path, allow_nonempty)?;
    let backend = door.backend.unwrap_or(if cfg!(target_os = "macos") { Backend::Nfs } else { Backend::Fuse });
    match backend {
        Backend::Fuse if door.nfs_options.is_some() => {
            return Err(Failure::usage("--nfs-options are those of the client of NFS: add `--backend nfs`"));
        }
        Backend::Fuse => check_fuse()?,
        Backend::Nfs => check_nfs()?,
    }
    let id = connect::new_id();
    Ok(Order {
        socket: context.dirs.socket_path(&id)?,
        log: context.dirs.log_path(&id)?,
        before: where_::left_underneath(&mountpoint),
        mountpoint,
        id,
        place,
        given: context.settings.given.clone(),
        login: Login::of_process(),
        allow_other: door.allow_other,
        foreground: false,
        bound: false,
        door: match backend {
            Backend::Fuse => daemon::Door::Fuse,
            Backend::Nfs => daemon::Door::NfsMount { options: door.nfs_options.clone() },
        },
    })
}

fn looks_like_dsn(text: &str) -> bool {
    text.contains("://") || text.starts_with("local:") || (text.contains("host=") && !text.contains('/'))
}

/// The mount point, absolute, after cleaning away what a killed daemon left there.
fn check_mountpoint(context: &Context, path: &Path, allow_nonempty: bool) -> Result<PathBuf> {
    let at = absolute(path)?;
    let shown = at.display();
    clean(context, &at)?;
    if let Some(mount) = context.dirs.live().into_iter().find(|mount| mount.mountpoint == at) {
        let what = if mount.prefix.is_empty() { "the whole table".into() } else { format!("the prefix {:?}", mount.prefix) };
        let why = format!("{shown} is already mounted: it shows {what} of {}; `pgfiles unmount {shown}` first", mount.server);
        return Err(Failure::conflict(why));
    }
    if mount_table::at(&at).is_some_and(|mounted| mounted.is_ours()) {
        return Err(Failure::conflict(format!(
            "{shown} is already mounted by another user or container: choose another directory"
        )));
    }
    let meta = match std::fs::metadata(&at) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::not_found(format!("{shown} does not exist: `mkdir -p {shown}` first")));
        }
        Err(error) => return Err(Failure::io(format!("cannot mount on {shown}"), &error)),
    };
    if !meta.is_dir() {
        return Err(Failure::failed(format!("{shown} is not a directory: choose one to mount on")));
    }
    let uid = rustix::process::geteuid();
    if !uid.is_root() && meta.uid() != uid.as_raw() {
        return Err(Failure::failed(format!(
            "{shown} belongs to another user (uid {}): choose a directory of your own",
            meta.uid()
        )));
    }
    let held = where_::left_underneath(&at);
    if !held.is_empty() && !allow_nonempty {
        let count = held.len();
        let why = format!(
            "{shown} holds {count} file{}, which the mount would hide: choose an empty directory, move them away, or pass \
             --allow-nonempty and copy them in from elsewhere with `pgfiles import`",
            if count == 1 { "" } else { "s" }
        );
        return Err(Failure::conflict(why));
    }
    std::fs::read_dir(&at).map_err(|error| Failure::io(format!("cannot mount on {shown}"), &error))?;
    Ok(at)
}

/// Takes away what a killed daemon left at that place: its mount, its registration, its socket. Returns whether there
/// was anything.
pub(super) fn clean(context: &Context, at: &Path) -> Result<bool> {
    let mut found = false;
    let is_dead = || mount_table::at(at).is_some_and(|mounted| mounted.is_ours()) && mount_table::is_dead(at);
    if is_dead() {
        // The kernel closes the descriptors of a killed process one after the other: its mount may be dead before the lock
        // that says that it lives is free.
        let until = Instant::now() + DYING_WAIT;
        while context.dirs.live().iter().any(|mount| mount.mountpoint == at) && Instant::now() < until {
            std::thread::sleep(DYING_POLL);
        }
    }
    for listed in context.dirs.list() {
        if listed.mount.mountpoint == at && !listed.alive {
            if listed.mount.backend == "nfs" && mount_table::is_local_nfs(at) {
                mount_table::force_nfs(at)?;
            }
            listed.forget();
            found = true;
        }
    }
    while is_dead() {
        mount_table::detach(at)?;
        found = true;
    }
    Ok(found)
}

/// Whether the system's client of NFS can be used, as far as that shows before it is tried.
pub(super) fn check_nfs() -> Result<()> {
    if cfg!(target_os = "linux") && !rustix::process::geteuid().is_root() {
        return Err(Failure::failed("mounting NFS takes root on Linux: use `--backend fuse`, or `pgfiles serve-nfs`"));
    }
    if cfg!(target_os = "macos") && !Path::new("/sbin/mount_nfs").exists() {
        return Err(Failure::failed("there is no /sbin/mount_nfs, which is part of macOS"));
    }
    Ok(())
}

/// Whether FUSE can be used, with the remedy where not.
pub(super) fn check_fuse() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Err(Failure::failed("there is no FUSE here: use `--backend nfs`"));
    }
    let device = Path::new("/dev/fuse");
    let container = "in a container: run it with `--device /dev/fuse --cap-add SYS_ADMIN`";
    let mut remedy = format!("on a machine: `modprobe fuse`; {container}");
    if let Err(error) = std::fs::File::options().read(true).write(true).open(device) {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no /dev/fuse".to_owned(),
            std::io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
                remedy = "ask root for `chmod 666 /dev/fuse`, or mount as root".to_owned();
                "/dev/fuse may not be opened by this user".to_owned()
            }
            _ => format!("/dev/fuse cannot be opened: {}", crate::exit::plain(&error)),
        };
        return Err(Failure::failed(format!("{why}; {remedy}")));
    }
    let helper = ["fusermount3", "fusermount"].iter().any(|name| in_path(name));
    if !rustix::process::geteuid().is_root() && !helper {
        return Err(Failure::failed("fusermount3 is not installed: install the package fuse3 (a mount by root does without)"));
    }
    Ok(())
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}
