//! `~/.config/pgfiles/config.yaml`: flat keys, those of [`super::env::SETTINGS`] and no others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_norway::Value;

use super::env::{SETTINGS, nearest, setting};
use crate::exit::{Failure, Result};

/// Where the file would be: under `$XDG_CONFIG_HOME`, else under `~/.config`. `None` without a home.
pub fn path(var: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let xdg = var("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let dir = xdg.or_else(|| var("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".config")))?;
    Some(dir.join("pgfiles/config.yaml"))
}

/// Reads the file: key to text. A file that is not there is empty.
///
/// # Errors
/// One that cannot be read, is no YAML mapping, or holds an unknown key.
pub fn read(path: &Path) -> Result<BTreeMap<&'static str, String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|why| Failure::usage(format!("{}: {why}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {}", path.display(), crate::exit::plain(&error)))),
    }
}

fn parse(text: &str) -> std::result::Result<BTreeMap<&'static str, String>, String> {
    let value: Value = serde_norway::from_str(text).map_err(|error| format!("not YAML: {error}"))?;
    let fields = match value {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Mapping(fields) => fields,
        _ => return Err("must be keys with values, such as `pool_size: 4`".into()),
    };
    let mut out = BTreeMap::new();
    for (key, value) in fields {
        let key = scalar(&key).ok_or("a key must be a word")?;
        let known = setting(&key).ok_or_else(|| unknown(&key))?;
        let value = scalar(&value).ok_or_else(|| format!("{key} must have a single value; allowed: {}", known.allowed))?;
        out.insert(known.key, value);
    }
    Ok(out)
}

/// The text of a value that is not a list, a mapping or nothing.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(on.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn unknown(key: &str) -> String {
    let bare = key.to_ascii_lowercase().replace('-', "_");
    let bare = bare.strip_prefix("pgfiles_").unwrap_or(&bare);
    match setting(bare) {
        Some(meant) => format!("unknown setting {key:?}: write it as `{}`", meant.key),
        None => {
            let all: Vec<_> = SETTINGS.iter().map(|s| s.key).collect();
            let meant = nearest(bare).map(|meant| format!(" (is `{meant}` meant?)")).unwrap_or_default();
            format!("unknown setting {key:?}{meant}; there are {}", all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_keys_are_read() {
        let all = parse("pool_size: 4\nread_only: true\nprefix: agents/7\n").unwrap();
        assert_eq!(all["pool_size"], "4");
        assert_eq!(all["read_only"], "true");
        assert_eq!(all["prefix"], "agents/7");
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("pool_sise: 4").unwrap_err().contains("\"pool_sise\""));
        assert!(parse("PGFILES_POOL_SIZE: 4").unwrap_err().contains("`pool_size`"));
        assert!(parse("tags: {a: b}").unwrap_err().contains("tags"));
        assert!(parse("- a").is_err());
        assert!(parse("a: b: c").unwrap_err().contains("not YAML"));
        assert!(parse("pool_size: 4\npool_size: 5").is_err());
    }
}
