//! Every setting, once: its name, default, what is allowed and what it does. The flags of the command line, the
//! variables, the keys of the file and `docs/configuration.md` are all made from this list.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file and in `config show`.
    pub key: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// The default as a user would write it; "" where there is none.
    pub default: &'static str,
    /// What values there are, as the error about a bad one says it.
    pub allowed: &'static str,
    /// What it does: the help of the flag and the text of the docs.
    pub doc: &'static str,
}

impl Setting {
    /// A switch may stand on the command line without a value.
    pub fn is_switch(&self) -> bool {
        self.allowed == SWITCH
    }
}

const SWITCH: &str = "true or false";
const BYTES: &str = "bytes, with kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024) after the number";
const SPAN: &str = "a number with ms, s, m, h or d after it; a bare number is seconds";

macro_rules! settings {
    ($($key:literal $variable:literal $flag:literal $default:literal $allowed:expr => $doc:literal,)*) => {
        /// The settings, in the order in which they are shown.
        pub const SETTINGS: &[Setting] = &[$(Setting {
            key: $key, variable: $variable, flag: $flag, default: $default, allowed: $allowed, doc: $doc,
        },)*];
    };
}

settings! {
    "dsn" "PGFILES_DSN" "dsn" ""
        "a libpq URL (postgres://user@host/db), a libpq key-value string (host=… dbname=…), `local:` or `local:/path`" =>
        "The Postgres server. `local:` is a private server that pgfiles sets up and starts itself.",
    "pool_size" "PGFILES_POOL_SIZE" "pool-size" "10" "a number from 1 to 100" =>
        "The most connections that a mount opens. They are opened when needed and closed when idle.",
    "prefix" "PGFILES_PREFIX" "prefix" ""
        "a path without leading /, empty parts, `.` and `..`; empty for the whole table" =>
        "The keys that are seen: a mount shows what lies below, and no command leaves it. `agents/7` and `agents/7/` are the same.",
    "read_only" "PGFILES_READ_ONLY" "read-only" "false" SWITCH =>
        "Refuse every change: programs in the mount get EROFS.",
    "cache_max_size" "PGFILES_CACHE_MAX_SIZE" "cache-max-size" "1GB" BYTES =>
        "The bound of the cache of contents on disk, for all mounts of the user together.",
    "cache_metadata_ttl" "PGFILES_CACHE_METADATA_TTL" "cache-metadata-ttl" "30s" SPAN =>
        "How long names, attributes and absence are trusted before they are asked for again; the bound on how late changes from elsewhere are seen. 0 asks at every open.",
    "cache_dir" "PGFILES_CACHE_DIR" "cache-dir" "" "an absolute path" =>
        "Where the cache of contents lies. By default `$XDG_CACHE_HOME/pgfiles`, else `~/.cache/pgfiles`.",
    "log_level" "PGFILES_LOG_LEVEL" "log-level" "warn" "debug, info, warn or error" =>
        "What is logged: by a daemon to the file that `pgfiles status` names, else to stderr.",
    "durability" "PGFILES_DURABILITY" "durability" "close" "close, sync or writeback" =>
        "What a returned close(2) means. `close`: committed and seen by everybody; lost only if the server and the daemon die within the same second. `sync`: on the server's disk. `writeback`: queued in the daemon, committed in order within moments.",
    "retry_timeout" "PGFILES_RETRY_TIMEOUT" "retry-timeout" "60s" SPAN =>
        "How long an operation waits for a server that went away before the program gets EIO.",
    "publish_interval" "PGFILES_PUBLISH_INTERVAL" "publish-interval" "5s" SPAN =>
        "After how long the data of a file that stays open for writing is published.",
    "young_seconds" "PGFILES_YOUNG_SECONDS" "young-seconds" "60" "a number of seconds from 0 to 86400" =>
        "A file whose only version this mount wrote less than this long ago leaves no trace at its old name when it is renamed. 0: it always does.",
    "free_space" "PGFILES_FREE_SPACE" "free-space" "1PiB" BYTES =>
        "The free space that statfs(2) and `df` report.",
    "notify" "PGFILES_NOTIFY" "notify" "false" SWITCH =>
        "Hear of changes by other mounts and by `pgfiles_write` and `pgfiles_delete` within a second, by LISTEN. Costs the server a little per commit.",
    "shared" "PGFILES_SHARED" "shared" "false" SWITCH =>
        "Several mounts of one prefix work together: O_EXCL is exclusive and flock, fcntl and OFD locks hold across all of them that have this set, and every open and stat asks the server (`PGFILES_CACHE_METADATA_TTL` is then 0 by default). Locks of a mount that dies or is cut off are free after 15 seconds. Not together with `PGFILES_DURABILITY=writeback`. Without it locks hold within a mount, and two mounts that write one file keep both versions.",
    "tags" "PGFILES_TAGS" "tags" "" "k=v,k2=v2: names without = and comma, no name twice" =>
        "Recorded in `meta.by.tags` of every version that is written.",
    "owner" "PGFILES_OWNER" "owner" "" "stored or mounter" =>
        "Whose the files are. `stored`: owners as kept, modes checked by the kernel, all users may enter; the default of a mount by root. `mounter`: all belong to who mounted; the default of a mount by anyone else.",
}

/// The key that a mistyped one is most like, if it is like one at all.
pub fn nearest(key: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.8;
    let alike = SETTINGS.iter().map(|s| (strsim::jaro_winkler(s.key, key), s.key)).filter(|(alike, _)| *alike >= ALIKE);
    alike.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, key)| key)
}

/// The setting of that key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// `docs/configuration.md`.
pub fn docs() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "# Settings\n\n\
         <!-- Generated from crates/pgfiles/src/config/env.rs by `PGFILES_BLESS=1 cargo test -p pgfiles docs_are_current`. -->\n\n\
         A setting is looked for on the command line (`--pool-size 4`, before or after the command's name), then in the\n\
         environment (`PGFILES_POOL_SIZE=4`), then in `$XDG_CONFIG_HOME/pgfiles/config.yaml` (else\n\
         `~/.config/pgfiles/config.yaml`; flat keys: `pool_size: 4`), then it has its default. A variable that is set to\n\
         nothing counts as not set. An unknown key in the file is an error. `pgfiles config show` prints each value and\n\
         where it came from, passwords masked.\n\n\
         | variable | flag | key | default |\n|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let default = if s.default.is_empty() { "–".to_owned() } else { format!("`{}`", s.default) };
        let _ = writeln!(out, "| `{}` | `--{}` | `{}` | {default} |", s.variable, s.flag, s.key);
    }
    for s in SETTINGS {
        let _ = write!(out, "\n## {}\n\n{}\n\nAllowed: {}.\n", s.variable, s.doc, s.allowed);
    }
    out.push_str(
        "\n## The DSN\n\n\
         A libpq URL or key-value string: several hosts, Unix sockets, `port`, `user`, `password`, `dbname`, `sslmode` from\n\
         `disable` to `verify-full`, `sslrootcert`, `sslcert` and `sslkey`, `connect_timeout` (10 s), `target_session_attrs`,\n\
         `options`, `application_name` (`pgfiles/<mount id>`), `channel_binding`, `keepalives_idle`, `passfile`. A password is\n\
         also found in `PGPASSWORD`, and in the file of `PGPASSFILE` or `~/.pgpass`. Any other parameter is refused by name,\n\
         and no other variable of libpq is read. Without `user` it is that of the system. The DSN is printed and logged without its password, and a daemon has it\n\
         neither in its arguments nor in its environment.\n\n\
         ## Further variables\n\n\
         `XDG_CONFIG_HOME`, `XDG_CACHE_HOME`, `XDG_STATE_HOME` and `XDG_RUNTIME_DIR` are respected. The log of a daemon lies in\n\
         `$XDG_STATE_HOME/pgfiles/log` (`~/.local/state/pgfiles/log`), what a forced unmount could not commit in `recovery`\n\
         beside it; the list of live mounts and their control sockets in `$XDG_RUNTIME_DIR/pgfiles`, else in `run` beside them.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_key() {
        for s in SETTINGS {
            assert_eq!(s.variable, format!("PGFILES_{}", s.key.to_uppercase()));
            assert_eq!(s.flag, s.key.replace('_', "-"));
        }
    }

    /// With `PGFILES_BLESS=1` the file is written instead of compared.
    #[test]
    fn docs_are_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("PGFILES_BLESS").is_some() {
            std::fs::write(path, docs()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == docs(), "docs/configuration.md is not current: PGFILES_BLESS=1 cargo test -p pgfiles docs_are_current");
    }
}
