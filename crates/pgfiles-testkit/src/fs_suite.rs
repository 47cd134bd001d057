//! What programs expect of a filesystem, written once and run over every way in: straight on `Vfs`, through a mount.
//!
//! Each check works in a directory of its own, given as a path that ends without `/`.

mod checks;
mod direct;
mod links;
mod on_disk;
mod over_nfs;
mod paths;
mod ranges;
mod system_calls;

pub use direct::Direct;
pub use on_disk::OnDisk;
pub use over_nfs::OverNfs;
pub use system_calls::run_system_calls;

/// What NFS v4.1 has no operation for (docs/nfs.md).
const NOT_OVER_NFS: &[(&str, &str)] = &[
    ("rename_noreplace_refuses", "RENAME has no flags"),
    ("files_and_directories_change_places", "RENAME has no flags"),
    ("a_tree_of_long_paths_moves", "it exchanges names"),
    ("an_allocation_grows_the_file", "ALLOCATE is of version 4.2"),
    ("a_punched_range_is_zeros", "DEALLOCATE is of version 4.2"),
    ("a_zeroed_range_is_zeros", "WRITE_SAME is of version 4.2"),
    ("holes_are_found_and_take_no_room", "SEEK is of version 4.2"),
    ("ranges_are_copied", "COPY is of version 4.2"),
    ("a_copy_is_a_file_of_its_own", "COPY is of version 4.2"),
];

/// A result with an errno.
pub type Outcome<T> = Result<T, i32>;

/// What a check sees of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u64,
    pub size: u64,
    /// Bytes that take room.
    pub stored: u64,
    pub uid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
}

/// A way into a filesystem. Paths are relative to its root; flags and modes are libc's.
#[allow(missing_docs)] // the methods are the system calls of the same name
pub trait Fs {
    type File;
    fn open(&self, path: &str, flags: i32, mode: u32) -> Outcome<Self::File>;
    fn close(&self, file: Self::File) -> Outcome<()>;
    fn pread(&self, file: &Self::File, offset: u64, len: usize) -> Outcome<Vec<u8>>;
    fn pwrite(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> Outcome<()>;
    fn fsync(&self, file: &Self::File) -> Outcome<()>;
    fn ftruncate(&self, file: &Self::File, size: u64) -> Outcome<()>;
    fn fstat(&self, file: &Self::File) -> Outcome<Stat>;
    fn lstat(&self, path: &str) -> Outcome<Stat>;
    fn mkdir(&self, path: &str, mode: u32) -> Outcome<()>;
    fn rmdir(&self, path: &str) -> Outcome<()>;
    fn unlink(&self, path: &str) -> Outcome<()>;
    fn rename(&self, from: &str, to: &str, noreplace: bool) -> Outcome<()>;
    fn exchange(&self, a: &str, b: &str) -> Outcome<()>;
    fn link(&self, from: &str, to: &str) -> Outcome<()>;
    /// `mode` as in `man 2 fallocate`.
    fn fallocate(&self, file: &Self::File, mode: i32, offset: u64, len: u64) -> Outcome<()>;
    /// `whence` is SEEK_DATA or SEEK_HOLE.
    fn lseek(&self, file: &Self::File, offset: u64, whence: i32) -> Outcome<u64>;
    /// One call: what it copied.
    fn copy_range(&self, from: &Self::File, offset: u64, to: &Self::File, to_offset: u64, len: u64) -> Outcome<u64>;
    fn symlink(&self, target: &[u8], path: &str) -> Outcome<()>;
    fn readlink(&self, path: &str) -> Outcome<Vec<u8>>;
    /// Sorted, without `.` and `..`.
    fn readdir(&self, path: &str) -> Outcome<Vec<Vec<u8>>>;
    /// Calls `between` after the first few names were read.
    fn readdir_slowly(&self, path: &str, between: &mut dyn FnMut()) -> Outcome<Vec<Vec<u8>>>;
    fn mkfifo(&self, path: &str, mode: u32) -> Outcome<()>;
    fn chmod(&self, path: &str, mode: u32) -> Outcome<()>;
    fn chown(&self, path: &str, uid: u32, gid: u32) -> Outcome<()>;
    fn set_mtime(&self, path: &str, at: (i64, u32)) -> Outcome<()>;
    fn truncate(&self, path: &str, size: u64) -> Outcome<()>;
    fn setxattr(&self, path: &str, name: &str, value: &[u8], flags: i32) -> Outcome<()>;
    fn getxattr(&self, path: &str, name: &str) -> Outcome<Vec<u8>>;
    fn listxattr(&self, path: &str) -> Outcome<Vec<u8>>;
    fn removexattr(&self, path: &str, name: &str) -> Outcome<()>;

    /// Checks that this way in cannot pass, each with its reason.
    fn cannot(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Creates or replaces a file as a shell does.
    fn write_file(&self, path: &str, bytes: &[u8]) -> Outcome<()> {
        let file = self.open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644)?;
        self.pwrite(&file, 0, bytes)?;
        self.close(file)
    }

    /// All bytes of a file.
    fn read_file(&self, path: &str) -> Outcome<Vec<u8>> {
        let file = self.open(path, libc::O_RDONLY, 0)?;
        let mut out = Vec::new();
        loop {
            let piece = self.pread(&file, out.len() as u64, 128 << 10)?;
            if piece.is_empty() {
                self.close(file)?;
                return Ok(out);
            }
            out.extend(piece);
        }
    }
}

/// Runs every check.
///
/// # Panics
/// Where one fails, naming it.
pub fn run<F: Fs>(fs: &F) {
    for (name, check) in checks::all::<F>().into_iter().chain(links::all()).chain(ranges::all()).chain(paths::all()) {
        if let Some((_, why)) = fs.cannot().iter().find(|(cannot, _)| *cannot == name) {
            eprintln!("fs_suite: {name} cannot be: {why}");
            continue;
        }
        let dir = format!("check-{name}");
        fs.mkdir(&dir, 0o755).unwrap();
        eprintln!("fs_suite: {name}");
        check(fs, &dir);
    }
}
