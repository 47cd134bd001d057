//! The FUSE adapter: mounts a [`Vfs`] through `/dev/fuse`, translates requests and answers, nothing else.

mod adapter;
mod convert;
mod notify;
mod signals;
mod watched;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig, MountOption, SessionACL};
use pgfiles_vfs::{KernelCache, Vfs};
use tokio::runtime::Handle;

/// How a filesystem is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// Whether other users than the one who mounts may enter; modes are checked by the kernel either way.
    pub allow_other: bool,
    /// What `mount` and `df` show as the device.
    pub fsname: String,
    /// Threads that read requests; at least 1.
    pub threads: usize,
    /// Whether the kernel refuses writes by itself.
    pub read_only: bool,
}

impl MountOptions {
    /// The defaults: as root everybody may enter, two threads.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            allow_other: is_root(),
            fsname: "pgfiles".into(),
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
            read_only: false,
        }
    }
}

/// Why a filesystem could not be mounted, unmounted or served.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// `/dev/fuse` is not there: the kernel module is not loaded, or the container does not have it.
    #[error("no /dev/fuse: load the kernel module `fuse`, or give the container the device (--device /dev/fuse)")]
    NoDevice,
    /// `/dev/fuse` may be opened by root only, and so `fusermount3` cannot help.
    #[error("/dev/fuse is not open to this user (mode {0:04o}): ask root for `chmod 666 /dev/fuse`, or mount as root")]
    DeviceForbidden(u32),
    /// Mounting failed.
    #[error("cannot mount on {0}: {1}")]
    Mount(PathBuf, #[source] io::Error),
    /// Unmounting failed; "busy" means that a process stands in it or has a file open.
    #[error("cannot unmount {0}: {1}")]
    Unmount(PathBuf, #[source] io::Error),
    /// Serving requests ended with an error.
    #[error("serving {0} ended: {1}")]
    Serve(PathBuf, #[source] io::Error),
}

/// A mounted filesystem that is being served.
pub struct Session {
    mountpoint: PathBuf,
    thread: JoinHandle<io::Result<()>>,
    cache: Arc<dyn KernelCache>,
}

/// Unmounts from anywhere.
#[derive(Debug, Clone)]
pub struct Unmounter {
    mountpoint: PathBuf,
}

/// Mounts a filesystem and serves it on threads of its own; answers that have to wait for the store come from tasks of
/// `runtime`. Returns when the mount answers. The kernel is told of changes made elsewhere from now on.
///
/// # Errors
/// [`FuseError`].
pub fn mount(vfs: Arc<Vfs>, options: &MountOptions, runtime: Handle) -> Result<Session, FuseError> {
    check_device()?;
    let failed = |error| FuseError::Mount(options.mountpoint.clone(), error);
    let mountpoint = options.mountpoint.canonicalize().map_err(failed)?;
    let adapter = adapter::Adapter::new(vfs.clone(), runtime);
    let session = fuser::Session::new(adapter, &mountpoint, &session_config(options)).map_err(failed)?;
    let cache: Arc<dyn KernelCache> = Arc::new(notify::FuseCache::start(session.notifier()).map_err(failed)?);
    vfs.set_kernel_cache(cache.clone());
    let thread = std::thread::Builder::new().name("pgfiles-fuse".into()).spawn(move || session.run()).map_err(failed)?;
    Ok(Session { mountpoint, thread, cache })
}

/// What the kernel is asked for when it greets a filesystem. An older kernel without one of these works, only slower.
pub fn ask_kernel(config: &mut KernelConfig) {
    const REQUEST_BYTES_MAX: u32 = 1 << 20;
    const BACKGROUND_MAX: u16 = 64;
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let _ = config.set_time_granularity(Duration::from_nanos(1));
    // Not FUSE_ATOMIC_O_TRUNC: with it the kernel has a file emptied by open(O_RDONLY | O_TRUNC) before it finds out
    // that the file is being executed, and the program dies.
    for wanted in [
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_AUTO_INVAL_DATA,
    ] {
        let _ = config.add_capabilities(wanted);
    }
}

/// How fuser serves a mount: its threads, and what it is mounted with.
pub fn session_config(options: &MountOptions) -> fuser::Config {
    let mut config = fuser::Config::default();
    // Commas separate mount options.
    let fsname = options.fsname.replace(',', "_");
    config.mount_options = vec![MountOption::FSName(fsname), MountOption::DefaultPermissions];
    if !is_root() {
        config.mount_options.push(MountOption::Subtype("pgfiles".into()));
    }
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    // Each thread opens the device again, which only root may where it is 0600.
    config.clone_fd = is_root();
    config
}

fn check_device() -> Result<(), FuseError> {
    use std::os::unix::fs::PermissionsExt as _;
    let device = Path::new("/dev/fuse");
    let Ok(found) = device.metadata() else { return Err(FuseError::NoDevice) };
    match std::fs::OpenOptions::new().read(true).write(true).open(device) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(FuseError::DeviceForbidden(found.permissions().mode() & 0o7777))
        }
        _ => Ok(()),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Session {
    /// Unmounts from another thread.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { mountpoint: self.mountpoint.clone() }
    }

    /// What the kernel has cached of this mount.
    pub fn kernel_cache(&self) -> Arc<dyn KernelCache> {
        self.cache.clone()
    }

    /// Where it is mounted, as an absolute path.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether serving has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Blocks until it is unmounted, by anyone, and the last open file is closed; everything was published by then, or
    /// the log says what was not.
    ///
    /// # Errors
    /// [`FuseError::Serve`].
    pub fn wait(self) -> Result<(), FuseError> {
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a session thread panicked")));
        ended.map_err(|error| FuseError::Serve(self.mountpoint, error))
    }
}

impl Unmounter {
    /// Unmounts. `lazy`: at once even while it is in use; who has files open goes on.
    ///
    /// # Errors
    /// [`FuseError::Unmount`].
    pub fn unmount(&self, lazy: bool) -> Result<(), FuseError> {
        use rustix::mount::{UnmountFlags, unmount};
        let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        match unmount(&self.mountpoint, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::PERM) => self.unmount_by_helper(lazy),
            Err(error) => Err(FuseError::Unmount(self.mountpoint.clone(), error.into())),
        }
    }

    /// An ordinary user unmounts through the set-user-id helper that mounted.
    fn unmount_by_helper(&self, lazy: bool) -> Result<(), FuseError> {
        let failed = |error| FuseError::Unmount(self.mountpoint.clone(), error);
        let mut command = std::process::Command::new("fusermount3");
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        let output = command.arg("--").arg(&self.mountpoint).output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
    }
}
