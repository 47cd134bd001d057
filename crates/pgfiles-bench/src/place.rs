//! Where a workload runs: a plain directory, a filesystem in memory, a mount of pgfiles.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// What stands behind the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A directory of this machine's disk (E).
    Plain,
    /// The floor of FUSE (F).
    Memfs,
    /// pgfiles in its default mode.
    Close,
    /// pgfiles with `PGFILES_DURABILITY=writeback`.
    Writeback,
    /// The same without the network delay that the others have; only where there is one.
    Near,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Plain, Kind::Memfs, Kind::Close, Kind::Writeback, Kind::Near];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "E",
            Kind::Memfs => "F",
            Kind::Close => "pgfiles",
            Kind::Writeback => "writeback",
            Kind::Near => "near",
        }
    }

    pub fn is_pgfiles(self) -> bool {
        matches!(self, Kind::Close | Kind::Writeback | Kind::Near)
    }
}

/// What all places share.
pub struct Ground {
    /// A directory for mount points, caches and state.
    pub dir: PathBuf,
    /// The programs of this build.
    pub bin: PathBuf,
    /// The server, as pgfiles is told.
    pub dsn: String,
    /// The same without network delay.
    pub near: String,
}

/// A directory that is ready for a workload.
pub struct Place<'g> {
    pub kind: Kind,
    ground: &'g Ground,
    memfs: Option<Child>,
    at: PathBuf,
    prefix: String,
}

impl<'g> Place<'g> {
    /// An empty one; `nth` makes its prefix unique.
    pub fn new(ground: &'g Ground, kind: Kind, nth: usize) -> Result<Self> {
        Self::named(ground, kind, &format!("{}-{nth}", kind.name()))
    }

    fn named(ground: &'g Ground, kind: Kind, name: &str) -> Result<Self> {
        let at = ground.dir.join("at").join(name);
        std::fs::create_dir_all(&at)?;
        let mut place = Self { kind, ground, memfs: None, at, prefix: format!("bench/{name}/") };
        place.mount()?;
        std::fs::create_dir_all(place.root())?;
        Ok(place)
    }

    /// Another of the same kind, for a workload on several.
    pub fn beside(&self, nth: usize) -> Result<Place<'g>> {
        let name = self.at.file_name().and_then(|name| name.to_str()).context("a place has a name")?;
        Place::named(self.ground, self.kind, &format!("{name}-{nth}"))
    }

    /// The directory to work in.
    pub fn root(&self) -> PathBuf {
        self.at.join("work")
    }

    /// The keys below it begin so.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A command of pgfiles.
    pub fn pgfiles(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.ground.bin.join("pgfiles"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PGFILES_")) {
            command.env_remove(name);
        }
        for (name, dir) in [("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state")] {
            command.env(name, self.ground.dir.join(dir));
        }
        let durability = if self.kind == Kind::Close { "close" } else { "writeback" };
        let dsn = if self.kind == Kind::Near { &self.ground.near } else { &self.ground.dsn };
        command.env("PGFILES_DSN", dsn).env("PGFILES_PREFIX", &self.prefix);
        command.env("PGFILES_DURABILITY", durability).args(args);
        command
    }

    fn mount(&mut self) -> Result<()> {
        ensure!(!STOPPED.load(Ordering::SeqCst), "stopped");
        match self.kind {
            Kind::Plain => Ok(()),
            Kind::Memfs => {
                let child = Command::new(self.ground.bin.join("memfs")).arg(&self.at).spawn().context("memfs")?;
                self.memfs = Some(child);
                let began = Instant::now();
                while !is_mounted(&self.at) {
                    ensure!(began.elapsed() < Duration::from_secs(10), "memfs does not answer");
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            }
            Kind::Close | Kind::Writeback | Kind::Near => run(self.pgfiles(&["mount"]).arg(&self.at)),
        }
    }

    fn unmount(&mut self) -> Result<()> {
        match self.kind {
            Kind::Plain => Ok(()),
            Kind::Memfs => {
                run(Command::new("fusermount3").arg("-u").arg(&self.at))?;
                if let Some(mut child) = self.memfs.take() {
                    child.wait()?;
                }
                Ok(())
            }
            Kind::Close | Kind::Writeback | Kind::Near => run(self.pgfiles(&["unmount", "--timeout", "120s"]).arg(&self.at)),
        }
    }

    /// Empties the caches of the daemon and of the kernel. What is in memory only keeps its daemon.
    pub fn cold(&mut self) -> Result<()> {
        if self.kind.is_pgfiles() {
            self.unmount()?;
            run(&mut self.pgfiles(&["cache", "clear"]))?;
            self.mount()?;
        }
        drop_caches()
    }

    /// Operations as JSON Lines, in one transaction.
    pub fn batch(&self, lines: &str) -> Result<()> {
        let mut command = self.pgfiles(&["batch"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("pgfiles batch")?;
        if let Some(mut to) = child.stdin.take() {
            to.write_all(lines.as_bytes())?;
        }
        ensure!(child.wait()?.success(), "pgfiles batch failed");
        Ok(())
    }

    /// All that was written is committed.
    pub fn settle(&self) -> Result<()> {
        if self.kind.is_pgfiles() { run(self.pgfiles(&["flush"]).arg(&self.at)) } else { Ok(()) }
    }

    /// Mounted anew, with the time from the command to the end of the first `ls`.
    pub fn mount_to_ls(&mut self) -> Result<Duration> {
        self.unmount()?;
        let began = Instant::now();
        self.mount()?;
        std::fs::read_dir(&self.at)?.count();
        Ok(began.elapsed())
    }

    /// What `pgfiles status --json` says of the mount.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.pgfiles(&["status", "--json"]).arg(&self.at).output()?;
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).context("status --json")?;
        Ok(all.get(0).cloned().unwrap_or_default())
    }

    /// Requests to the server so far.
    pub fn round_trips(&self) -> Result<u64> {
        if !self.kind.is_pgfiles() {
            return Ok(0);
        }
        Ok(self.status()?.pointer("/operations/round_trips").and_then(serde_json::Value::as_u64).unwrap_or(0))
    }

    /// The daemon's process. Asking makes it ask the server.
    pub fn pid(&self) -> Result<u64> {
        self.status()?.get("pid").and_then(serde_json::Value::as_u64).context("no pid")
    }

    /// Connections to the server that a daemon holds: its TCP sockets, as the kernel lists them.
    pub fn connections(pid: u64) -> Result<usize> {
        let tcp = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
        let established = tcp.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let sockets: std::collections::HashSet<String> = established
            .filter(|fields| fields.get(3) == Some(&"01"))
            .filter_map(|fields| Some(format!("socket:[{}]", fields.get(9)?)))
            .collect();
        let mut held = 0;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            // One may be closed meanwhile.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            held += usize::from(sockets.contains(target.to_string_lossy().as_ref()));
        }
        Ok(held)
    }

    /// A number of the daemon's `/proc/PID/status` in KiB.
    pub fn memory_kib(&self, field: &str) -> Result<u64> {
        let pid = self.pid()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find(|line| line.starts_with(field)).context("no such field")?;
        Ok(line.split_whitespace().nth(1).unwrap_or("0").parse()?)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.kind == Kind::Plain {
            let _ = std::fs::remove_dir_all(&self.at);
        } else if let Err(error) = self.unmount() {
            eprintln!("{}: {error:#}; taken away", self.at.display());
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
            if let Some(child) = &mut self.memfs {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Set once the run is broken off: nothing is mounted any more.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Takes a run's directory away with all mounts in it; what is being mounted meanwhile too.
pub fn abandon(dir: &Path) -> Result<()> {
    STOPPED.store(true, Ordering::SeqCst);
    let began = Instant::now();
    loop {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(dir)) {
            // It may be gone by itself; what stays is seen below.
            let _ = run(Command::new("umount").arg("-l").arg(at));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(1)).any(|at| Path::new(at).starts_with(dir));
        // Only below no mount: what is removed is of this machine.
        let removed = if mounted { Ok(()) } else { std::fs::remove_dir_all(dir) };
        match removed {
            Ok(()) if !mounted => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            _ if began.elapsed() < Duration::from_secs(10) => std::thread::sleep(Duration::from_millis(50)),
            Ok(()) => bail!("{}: still mounted", dir.display()),
            Err(error) => return Err(error).with_context(|| dir.display().to_string()),
        }
    }
}

/// Empties the kernel's caches.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the kernel's caches takes root")
}

fn is_mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

/// Runs a command to its end; what it said is shown where it failed.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
