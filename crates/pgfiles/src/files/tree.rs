//! Trees and directories, in the order of their keys.

use std::collections::HashMap;

use pgfiles_store::store::Dir;
use pgfiles_store::{Entry, Head, Key, Prefix, alias};

use super::Files;
use crate::exit::Result;

/// Keys asked for at a time.
const PAGE_KEYS: u32 = 10_000;

/// Something in a tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// Relative to the tree's directory.
    pub path: String,
    /// What it is.
    pub entry: Entry,
}

impl Node {
    /// The row that says what it is; `None`: a directory that only its names imply.
    pub fn head(&self) -> Option<&Head> {
        match &self.entry {
            Entry::File(head) => Some(head),
            Entry::Dir(dir) => dir.marker.as_ref(),
        }
    }

    /// Whether it is one.
    pub fn is_dir(&self) -> bool {
        matches!(self.entry, Entry::Dir(_))
    }

    /// Its last component.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Puts the heads of a tree in order, with the directories that are implied, and what lies under an alias where it belongs.
struct Walk {
    root: Prefix,
    /// The directory that the last path was in, and those above it, were shown.
    shown: String,
    /// Where directories keep their names instead, with their paths.
    aliases: HashMap<String, String>,
    /// What lies at such places.
    deep: Vec<Head>,
}

impl Walk {
    fn take(&mut self, head: Head, out: &mut Vec<Node>) {
        let Some(path) = self.root.strip(&head.key).map(str::to_owned) else { return };
        if path.is_empty() {
            return;
        }
        if path.starts_with('/') || path.contains("//") {
            self.deep.push(head);
        } else {
            self.place(path, head, out);
        }
    }

    fn place(&mut self, path: String, head: Head, out: &mut Vec<Node>) {
        let is_dir = path.ends_with('/');
        let path = path.trim_end_matches('/').to_owned();
        if let Some(alias) = &head.meta.alias
            && let Some(alias) = alias::parse(alias, &Prefix::default())
        {
            self.aliases.insert(alias.as_str().to_owned(), path.clone());
        }
        let above = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        self.imply(above, out);
        let entry = match is_dir {
            true => {
                self.shown.clone_from(&path);
                Entry::Dir(Dir { marker: Some(head), mtime: None })
            }
            false => Entry::File(head),
        };
        out.push(Node { path, entry });
    }

    /// Shows the directories on the way to one that were not shown.
    fn imply(&mut self, dir: &str, out: &mut Vec<Node>) {
        let known = |path: &str, shown: &str| shown == path || shown.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let ends = dir.match_indices('/').map(|(at, _)| at).chain((!dir.is_empty()).then_some(dir.len()));
        for end in ends {
            let path = &dir[..end];
            if !known(path, &self.shown) {
                out.push(Node { path: path.to_owned(), entry: Entry::Dir(Dir::default()) });
            }
        }
        if !known(dir, &self.shown) {
            dir.clone_into(&mut self.shown);
        }
    }

    /// What lies at other places than its path says, once all of these are known.
    fn end(&mut self, out: &mut Vec<Node>) {
        let mut left = std::mem::take(&mut self.deep);
        // A directory in an aliased one may keep its names elsewhere, too.
        loop {
            let before = left.len();
            let mut later = Vec::new();
            for head in left {
                let place = head.key.as_file();
                let (dir, name) = place.as_str().rsplit_once('/').unwrap_or_default();
                let end = if head.key.is_marker() { "/" } else { "" };
                // The longest of the places that it may lie below.
                let found = place.as_str().match_indices('/').rev().find_map(|(at, _)| {
                    let path = self.aliases.get(&place.as_str()[..=at])?;
                    Some(format!("{path}/{}{end}", &place.as_str()[at + 1..]))
                });
                match found {
                    Some(path) => self.place(path, head, out),
                    // The marker of the place itself.
                    None if name.bytes().all(|byte| byte.is_ascii_digit()) && dir.ends_with('/') => {}
                    None => later.push(head),
                }
            }
            if later.is_empty() || later.len() == before {
                return;
            }
            left = later;
        }
    }
}

impl Files {
    /// Everything below a directory, a directory before what is in it, to `each`, page by page.
    ///
    /// # Errors
    /// What the store or `each` says.
    pub async fn tree(&self, dir: &Prefix, mut each: impl FnMut(Node) -> Result<()> + Send) -> Result<()> {
        let mut walk = Walk { root: dir.clone(), shown: String::new(), aliases: HashMap::new(), deep: Vec::new() };
        let mut out = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.tree(dir, after.as_ref(), PAGE_KEYS).await?;
            let is_last = page.len() < PAGE_KEYS as usize;
            after = page.last().map(|head| head.key.clone());
            page.into_iter().for_each(|head| walk.take(head, &mut out));
            if is_last {
                walk.end(&mut out);
            }
            out.drain(..).try_for_each(&mut each)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// The names of a directory, to `each`.
    ///
    /// # Errors
    /// What the store or `each` says.
    pub async fn names(&self, dir: &Prefix, mut each: impl FnMut(Node) -> Result<()> + Send) -> Result<()> {
        let mut from = None;
        loop {
            let page = self.store.list(dir, from.as_ref(), PAGE_KEYS, 0).await?;
            page.entries.into_iter().try_for_each(|(path, entry)| each(Node { path, entry }))?;
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfiles_store::{Meta, VersionId, VersionNo};

    fn paths(keys: &[&str]) -> Vec<String> {
        let mut walk = Walk { root: Prefix::new("p").unwrap(), shown: String::new(), aliases: HashMap::new(), deep: Vec::new() };
        let mut out = Vec::new();
        for key in keys {
            let (key, alias) = key.split_once("=>").map_or((*key, None), |(key, alias)| (key, Some(alias.to_owned())));
            let meta = Meta { alias, ..Meta::default() };
            let key = Key::new(key).unwrap();
            walk.take(Head { key, id: VersionId(uuid::Uuid::nil()), version: VersionNo(1), meta, data: None }, &mut out);
        }
        walk.end(&mut out);
        out.iter().map(|node| format!("{}{}", node.path, if node.is_dir() { "/" } else { "" })).collect()
    }

    #[test]
    fn implied_directories_are_shown_once_and_first() {
        assert_eq!(
            paths(&["p/", "p/a", "p/b/c/d", "p/b/c/e", "p/b/f/", "p/b/f/g", "p/c"]),
            ["a", "b/", "b/c/", "b/c/d", "b/c/e", "b/f/", "b/f/g", "c"]
        );
    }

    #[test]
    fn what_lies_under_an_alias_is_shown_where_it_belongs() {
        assert_eq!(paths(&["p//7/", "p//7/x", "p//7/y/", "p/d/=>p//7/"]), ["d/", "d/x", "d/y/"]);
    }
}
