//! `~/.pgpass`: libpq's password file, `host:port:database:user:password` a line, `*` for anything.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::dsn::{Endpoint, Host, Password};

/// What the password file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A line fits.
    Password(Password),
    /// No file, or no line that fits.
    Nothing,
    /// The file is passed over because others may read it, as libpq does.
    Exposed,
}

/// Looks a password up. Reads the file each time, so that a changed one counts from the next connection on.
pub(super) fn look_up(file: &Path, end: &Endpoint, dbname: &str, user: &str) -> Found {
    let Ok(facts) = std::fs::metadata(file) else { return Found::Nothing };
    if !facts.is_file() {
        return Found::Nothing;
    }
    if facts.permissions().mode() & 0o077 != 0 {
        return Found::Exposed;
    }
    match std::fs::read_to_string(file) {
        Ok(text) => search(&text, end, dbname, user).map_or(Found::Nothing, Found::Password),
        Err(_) => Found::Nothing,
    }
}

/// The first line that fits.
fn search(text: &str, end: &Endpoint, dbname: &str, user: &str) -> Option<Password> {
    let port = end.port.to_string();
    let host = match &end.host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(dir) => dir.to_string_lossy().into_owned(),
    };
    // A socket in a usual place goes by the name of localhost.
    let usual = ["/var/run/postgresql", "/run/postgresql", "/tmp"].contains(&host.as_str());
    let fits = |field: &str, value: &str| field == "*" || unescape(field) == value;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields = split(line);
        let [line_host, line_port, line_db, line_user, password] = fields.as_slice() else { continue };
        let host_fits = fits(line_host, &host) || (usual && fits(line_host, "localhost"));
        if host_fits && fits(line_port, &port) && fits(line_db, dbname) && fits(line_user, user) {
            return Some(Password::new(unescape(password)));
        }
    }
    None
}

/// Fields between colons that have no backslash before them; the fifth is the rest of the line.
fn split(line: &str) -> Vec<&str> {
    let mut fields = Vec::with_capacity(5);
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' if fields.len() < 4 => {
                fields.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&line[start..]);
    fields
}

fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// Whether a key file is as private as libpq asks: 0600, or 0640 where root owns it.
pub(super) fn key_is_private(file: &Path) -> bool {
    std::fs::metadata(file).map_or(true, |facts| {
        let allowed = if facts.uid() == 0 { 0o740 } else { 0o700 };
        facts.permissions().mode() & 0o777 & !allowed == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt as _;

    fn at(host: &str) -> Endpoint {
        let host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host.into()) };
        Endpoint { host, port: 5432 }
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# c\nother:*:*:*:no\ndb:5432:app:me:a\\:b\\\\c:d\n*:*:*:me:late\nshort\n";
        assert_eq!(search(text, &at("db"), "app", "me"), Some(Password::new("a:b\\c:d")));
        assert_eq!(search(text, &at("db"), "x", "me"), Some(Password::new("late")));
        assert_eq!(search(text, &at("db"), "x", "you"), None);
    }

    #[test]
    fn a_usual_socket_is_localhost() {
        let text = "localhost:*:*:*:pw";
        assert!(search(text, &at("/var/run/postgresql"), "d", "u").is_some());
        assert!(search(text, &at("/elsewhere"), "d", "u").is_none());
    }

    #[test]
    fn a_file_that_others_may_read_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).mode(0o600);
        std::io::Write::write_all(&mut options.open(&file).unwrap(), b"*:*:*:*:pw").unwrap();
        assert_eq!(look_up(&file, &at("h"), "d", "u"), Found::Password(Password::new("pw")));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(look_up(&file, &at("h"), "d", "u"), Found::Exposed);
        assert_eq!(look_up(dir.path(), &at("h"), "d", "u"), Found::Nothing);
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_searched(text in r"([*a\\:]{0,9}\n?){0,5}") {
            let _ = search(&text, &at("a"), "a", "a");
        }
    }
}
