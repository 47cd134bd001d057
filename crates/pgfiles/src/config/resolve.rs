//! Flag, environment, file, default: the first that says something decides. The result is one plain struct that
//! remembers where each value came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgfiles_store::Prefix;
use serde::{Deserialize, Serialize};

use super::env::{SETTINGS, Setting};
use super::{file, secret, units};
use crate::exit::{Failure, Result};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The command line.
    Flag,
    /// A `PGFILES_` variable.
    Env,
    /// The configuration file.
    File,
    /// Nobody said anything.
    Default,
}

impl Source {
    /// The word in `config show`.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Flag => "flag",
            Source::Env => "env",
            Source::File => "file",
            Source::Default => "default",
        }
    }
}

/// The text of one setting and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// As it was written.
    pub text: String,
    /// By whom.
    pub source: Source,
}

/// What a returned close(2) means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Committed.
    Close,
    /// On the server's disk.
    Sync,
    /// Queued.
    Writeback,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// As in the setting.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

/// Whose the files in a mount are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the rows say.
    Stored,
    /// Whoever mounted.
    Mounter,
}

/// All settings, checked.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the fields are the settings of env.rs, one for one
pub struct Settings {
    pub dsn: Option<String>,
    pub pool_size: usize,
    pub prefix: Prefix,
    pub read_only: bool,
    pub cache_max_size: u64,
    pub cache_metadata_ttl: Duration,
    pub cache_dir: PathBuf,
    pub log_level: LogLevel,
    pub durability: Durability,
    pub retry_timeout: Duration,
    pub publish_interval: Duration,
    pub young_seconds: u32,
    pub free_space: u64,
    pub notify: bool,
    pub shared: bool,
    pub tags: BTreeMap<String, String>,
    pub owner: Owner,
    /// The text of each, by key, and where it came from.
    pub given: BTreeMap<String, Given>,
}

impl Settings {
    /// Resolves all settings: `flags` by key, then the variables, then the file.
    ///
    /// # Errors
    /// A bad value, named with what is allowed; a file that cannot be read.
    pub fn resolve(flags: &BTreeMap<&'static str, String>, var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let path = file::path(&var);
        let from_file = path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let mut given = BTreeMap::new();
        for s in SETTINGS {
            let found = flags
                .get(s.key)
                .map(|text| (text.clone(), Source::Flag))
                .or_else(|| var(s.variable).filter(|text| !text.is_empty()).map(|text| (text, Source::Env)))
                .or_else(|| from_file.get(s.key).map(|text| (text.clone(), Source::File)))
                .unwrap_or_else(|| (default_of(s, &var), Source::Default));
            given.insert(s.key.to_owned(), Given { text: found.0, source: found.1 });
        }
        Self::from_given(given, path.as_deref())
    }

    /// Checks texts that are already chosen: what a daemon is handed.
    ///
    /// # Errors
    /// A bad value.
    pub fn from_given(given: BTreeMap<String, Given>, file: Option<&Path>) -> Result<Self> {
        let check = Check { given: &given, file };
        let shared = check.take("shared", switch)?;
        Ok(Self {
            dsn: check.take("dsn", |text| Ok((!text.is_empty()).then(|| text.to_owned())))?,
            pool_size: check.take("pool_size", |t| t.parse().ok().filter(|n| (1..=100).contains(n)).ok_or_else(String::new))?,
            prefix: check.take("prefix", |text| Prefix::new(text).map_err(|error| error.to_string()))?,
            read_only: check.take("read_only", switch)?,
            cache_max_size: check.take("cache_max_size", |text| units::bytes(text).ok_or_else(String::new))?,
            cache_metadata_ttl: match given.get("cache_metadata_ttl") {
                // Close-to-open, unless somebody wants it otherwise.
                Some(Given { source: Source::Default, .. }) if shared => Duration::ZERO,
                _ => check.take("cache_metadata_ttl", span)?,
            },
            cache_dir: check.take("cache_dir", |text| match Path::new(text) {
                path if path.is_absolute() => Ok(path.to_owned()),
                _ => Err(String::new()),
            })?,
            log_level: check.take("log_level", |text| match text.to_ascii_lowercase().as_str() {
                "debug" => Ok(LogLevel::Debug),
                "info" => Ok(LogLevel::Info),
                "warn" => Ok(LogLevel::Warn),
                "error" => Ok(LogLevel::Error),
                _ => Err(String::new()),
            })?,
            durability: check.take("durability", |text| match text {
                "close" => Ok(Durability::Close),
                "sync" => Ok(Durability::Sync),
                "writeback" if shared => {
                    Err("it answers close before anyone else sees the file, and PGFILES_SHARED is set".into())
                }
                "writeback" => Ok(Durability::Writeback),
                _ => Err(String::new()),
            })?,
            retry_timeout: check.take("retry_timeout", span)?,
            publish_interval: check.take("publish_interval", span)?,
            young_seconds: check
                .take("young_seconds", |t| t.parse().ok().filter(|n| (0..=86_400).contains(n)).ok_or_else(String::new))?,
            free_space: check.take("free_space", |text| units::bytes(text).ok_or_else(String::new))?,
            notify: check.take("notify", switch)?,
            tags: check.take("tags", tags)?,
            owner: check.take("owner", |text| match text {
                "stored" => Ok(Owner::Stored),
                "mounter" => Ok(Owner::Mounter),
                _ => Err(String::new()),
            })?,
            shared,
            given,
        })
    }

    /// The DSN.
    ///
    /// # Errors
    /// There is none: the sentence says what to do.
    pub fn dsn(&self) -> Result<&str> {
        let why = "no DSN: set PGFILES_DSN, pass one, or use `local:`";
        self.dsn.as_deref().ok_or_else(|| Failure::usage(why))
    }

    /// Replaces the DSN by the one that stands on the command line.
    pub fn set_dsn(&mut self, dsn: &str) {
        self.dsn = Some(dsn.to_owned());
        self.given.insert("dsn".into(), Given { text: dsn.to_owned(), source: Source::Flag });
    }

    /// The value of a setting as `config show` prints it: a DSN without its password.
    pub fn shown(&self, setting: &Setting) -> (String, Source) {
        let given = self.given.get(setting.key);
        let text = given.map_or("", |given| given.text.as_str());
        let source = given.map_or(Source::Default, |given| given.source);
        (if setting.key == "dsn" { secret::mask_dsn(text) } else { text.to_owned() }, source)
    }
}

/// Defaults that depend on who runs where.
fn default_of(setting: &Setting, var: &impl Fn(&str) -> Option<String>) -> String {
    match setting.key {
        "owner" if rustix::process::geteuid().is_root() => "stored".into(),
        "owner" => "mounter".into(),
        "cache_dir" => {
            let xdg = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
            let home = || var("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".cache"));
            let base = xdg.or_else(home);
            let none = || std::env::temp_dir().join(format!("pgfiles-{}-cache", rustix::process::geteuid().as_raw()));
            base.map_or_else(none, |dir| dir.join("pgfiles")).to_string_lossy().into_owned()
        }
        _ => setting.default.to_owned(),
    }
}

/// Names a bad value: where it was set, what it was, why, and what is allowed.
struct Check<'a> {
    given: &'a BTreeMap<String, Given>,
    file: Option<&'a Path>,
}

impl Check<'_> {
    fn take<T>(&self, key: &str, parse: impl FnOnce(&str) -> std::result::Result<T, String>) -> Result<T> {
        let given = self.given.get(key).ok_or_else(|| Failure::failed(format!("setting {key} is missing")))?;
        let Some(setting) = super::env::setting(key) else {
            return Err(Failure::failed(format!("unknown setting {key}")));
        };
        parse(given.text.trim()).map_err(|why| {
            let name = match (given.source, self.file) {
                (Source::Flag, _) => format!("--{}", setting.flag),
                (Source::File, Some(file)) => format!("{} in {}", setting.key, file.display()),
                _ => setting.variable.to_owned(),
            };
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            Failure::usage(format!("{name}: {:?} is not allowed{why}: it must be {}", given.text, setting.allowed))
        })
    }
}

fn switch(text: &str) -> std::result::Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(String::new()),
    }
}

fn span(text: &str) -> std::result::Result<Duration, String> {
    units::span(text).ok_or_else(String::new)
}

fn tags(text: &str) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} has no ="))?;
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("{pair:?} has no name"));
        }
        if out.insert(name.to_owned(), value.trim().to_owned()).is_some() {
            return Err(format!("{name:?} stands there twice"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &[(&'static str, &str)], vars: &[(&str, &str)]) -> Result<Settings> {
        let flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Settings::resolve(&flags, |name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn flag_wins_over_env_over_file_over_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pgfiles")).unwrap();
        std::fs::write(dir.path().join("pgfiles/config.yaml"), "pool_size: 3\nprefix: f\nlog_level: info\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let vars = [("XDG_CONFIG_HOME", home), ("PGFILES_POOL_SIZE", "4"), ("PGFILES_PREFIX", "e")];
        let all = resolve(&[("pool_size", "5")], &vars).unwrap();
        assert_eq!((all.pool_size, all.given["pool_size"].source), (5, Source::Flag));
        assert_eq!((all.prefix.as_str(), all.given["prefix"].source), ("e/", Source::Env));
        assert_eq!((all.log_level, all.given["log_level"].source), (LogLevel::Info, Source::File));
        assert_eq!((all.cache_max_size, all.given["cache_max_size"].source), (1_000_000_000, Source::Default));
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (variable, value, allowed) in [
            ("PGFILES_CACHE_MAX_SIZE", "lots", "bytes"),
            ("PGFILES_POOL_SIZE", "0", "1 to 100"),
            ("PGFILES_READ_ONLY", "maybe", "true or false"),
            ("PGFILES_CACHE_METADATA_TTL", "soon", "a number with ms"),
            ("PGFILES_LOG_LEVEL", "loud", "debug, info, warn or error"),
            ("PGFILES_DURABILITY", "eventual", "close, sync or writeback"),
            ("PGFILES_PREFIX", "../x", "a path"),
            ("PGFILES_TAGS", "run", "k=v"),
            ("PGFILES_TAGS", "a=1,a=2", "twice"),
            ("PGFILES_OWNER", "me", "stored or mounter"),
            ("PGFILES_SHARED", "some", "true or false"),
        ] {
            let error = resolve(&[], &[(variable, value)]).unwrap_err();
            assert_eq!(error.exit, crate::exit::Exit::Usage);
            let text = error.to_string();
            assert!(text.contains(variable) && text.contains(value) && text.contains(allowed), "{text}");
        }
    }

    #[test]
    fn shared_asks_at_every_open_unless_told_otherwise() {
        let ttl = |vars: &[(&str, &str)]| resolve(&[], vars).unwrap().cache_metadata_ttl;
        assert_eq!(ttl(&[("PGFILES_SHARED", "false")]), Duration::from_secs(30));
        assert_eq!(ttl(&[("PGFILES_SHARED", "true")]), Duration::ZERO);
        assert_eq!(ttl(&[("PGFILES_SHARED", "true"), ("PGFILES_CACHE_METADATA_TTL", "2s")]), Duration::from_secs(2));
        let error = resolve(&[], &[("PGFILES_SHARED", "true"), ("PGFILES_DURABILITY", "writeback")]).unwrap_err().to_string();
        assert!(error.contains("PGFILES_DURABILITY") && error.contains("PGFILES_SHARED"), "{error}");
    }

    #[test]
    fn the_bad_flag_is_named_as_a_flag() {
        assert!(resolve(&[("pool_size", "x")], &[]).unwrap_err().to_string().starts_with("--pool-size"));
    }
}
