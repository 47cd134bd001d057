//! Finds the server programs of Postgres on this machine: Debian's, Red Hat's and Alpine's places, Homebrew's, Postgres.app, and PATH.
//!
//! A place counts when both `postgres` and `initdb` are in it and `postgres --version` runs as the user who will run the server
//! (packages of clients only, and programs in someone else's home, are passed over).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::account::Account;

/// Directories whose name holds a version, as (parent, start of the name, rest of the path).
const VERSIONED: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/local", "pgsql", "bin"),
];

/// The oldest major version that pgfiles works with.
pub const OLDEST_MAJOR: u32 = 14;

/// The server programs of one installed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Directory that holds `postgres`, `initdb` and `pg_ctl`.
    pub bin: PathBuf,
    /// Major version, 14 or later.
    pub major: u32,
}

impl Programs {
    /// All usable versions, newest first; of the same version the place listed first.
    pub fn installed(account: &Account) -> Vec<Programs> {
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for bin in places() {
            let Ok(real) = bin.join("postgres").canonicalize() else { continue };
            if seen.contains(&real) || !bin.join("initdb").exists() {
                continue;
            }
            seen.push(real);
            match major_of(&bin, account) {
                Some(major) if major >= OLDEST_MAJOR => found.push(Programs { bin, major }),
                _ => continue,
            }
        }
        found.sort_by_key(|programs| std::cmp::Reverse(programs.major));
        found
    }

    /// The version to use for data of the given major version, or the newest for new data.
    pub fn choose(installed: &[Programs], account: &Account, data: &Path, data_major: Option<u32>) -> Result<Programs> {
        let Some(newest) = installed.first() else {
            bail!(
                "`local:` needs the Postgres server programs, version {OLDEST_MAJOR} or later, and none are installed: {}",
                how_to_install(None)
            )
        };
        match data_major {
            None => Ok(newest.clone()),
            Some(major) => match installed.iter().find(|programs| programs.major == major) {
                Some(programs) => Ok(programs.clone()),
                None => bail!("{}", upgrade_steps(newest, account, data, major)),
            },
        }
    }

    /// Path of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, start, rest) in VERSIONED {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(start) {
                places.push(entry.path().join(rest));
            }
        }
    }
    places.sort();
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path).filter(|place| place.is_absolute()));
    }
    places
}

fn major_of(bin: &Path, account: &Account) -> Option<u32> {
    let out = account.command(bin.join("postgres")).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&out.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15; also `17beta1`, `18devel`.
fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_once("(PostgreSQL)")?.1.trim_start();
    let digits = version.len() - version.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    version.get(..digits)?.parse().ok()
}

fn how_to_install(major: Option<u32>) -> String {
    match (cfg!(target_os = "macos"), major) {
        (true, major) => format!("run `brew install postgresql@{}`", major.unwrap_or(17)),
        (false, None) => {
            "run `apt install postgresql` (Debian, Ubuntu) or install your system's Postgres server package".to_owned()
        }
        (false, Some(major)) => {
            format!("run `apt install postgresql-{major}` (Debian, Ubuntu; older versions come from apt.postgresql.org)")
        }
    }
}

/// What to do when the data was made by a version whose programs are not here.
fn upgrade_steps(newest: &Programs, account: &Account, data: &Path, major: u32) -> String {
    let (new, bin, data) = (newest.major, newest.bin.display(), data.display());
    let install = how_to_install(Some(major));
    if new < major {
        return format!("the data in {data} was made by Postgres {major}, and the newest installed here is {new}: {install}");
    }
    let (make, as_owner) = match account.is_me() {
        true => (String::new(), String::new()),
        false => (format!("install -d -o {} -m 700 {data}.{new}\n  ", account.name), format!("runuser -u {} -- ", account.name)),
    };
    format!(
        "the data in {data} was made by Postgres {major}, whose programs are not installed (the newest here is {new}).\n\
         To go on with {major}: {install}, and run this again.\n\
         To move to {new}: do the same, unmount everything on it, wait until its server has stopped, and then, in a directory that {name} may write to,\n  \
         {make}{as_owner}{bin}/initdb -D {data}.{new} -U pgfiles -E UTF8 --locale=C.UTF-8 --data-checksums\n  \
         {as_owner}{bin}/pg_upgrade -U pgfiles -b OLD -B {bin} -d {data} -D {data}.{new}     (OLD: the bin directory of {major})\n  \
         mv {data} {data}.{major} && mv {data}.{new} {data}\n\
         (without pg_upgrade: pg_dump the database `pgfiles` while it runs on {major}, move {data} away, and psql the dump into the new one)",
        name = account.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 17beta1\n"), Some(17));
        assert_eq!(parse_version("postgres (PostgreSQL) 18devel"), Some(18));
        assert_eq!(parse_version("psql 15"), None);
        assert_eq!(parse_version("postgres (PostgreSQL) "), None);
    }

    #[test]
    fn the_matching_version_is_chosen_and_a_missing_one_explained() {
        let data = Path::new("/d/data");
        let me = Account { uid: rustix::process::geteuid().as_raw(), gid: 0, name: "me".into() };
        let of = |major| Programs { bin: PathBuf::from(format!("/pg/{major}/bin")), major };
        let installed = [of(17), of(15)];
        assert_eq!(Programs::choose(&installed, &me, data, None).expect("newest").major, 17);
        assert_eq!(Programs::choose(&installed, &me, data, Some(15)).expect("same").major, 15);
        let error = Programs::choose(&installed, &me, data, Some(16)).expect_err("not installed").to_string();
        for part in ["made by Postgres 16", "/pg/17/bin/pg_upgrade", "/d/data.17", "unmount"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert!(!error.contains("runuser"), "{error}");
        let other = Account { uid: me.uid + 1, ..me.clone() };
        let error = Programs::choose(&installed, &other, data, Some(16)).expect_err("not installed").to_string();
        assert!(error.contains("install -d -o me") && error.contains("runuser -u me -- /pg/17/bin/pg_upgrade"), "{error}");
        let error = Programs::choose(&installed, &me, data, Some(18)).expect_err("newer").to_string();
        assert!(error.contains("made by Postgres 18") && !error.contains("pg_upgrade"), "{error}");
        let error = Programs::choose(&[], &me, data, None).expect_err("none").to_string();
        assert!(error.contains("install") && !error.contains('\n'), "{error}");
    }
}
