//! The inode table: inode number ↔ parent and name. Paths are computed by walking up, so that renaming a directory
//! changes one entry. Pure: no I/O, no lock of its own.
//!
//! Invariants: `children` of a directory points at the node that a lookup of that name finds; the node's `place` is
//! where its content is published. The two part when another client puts another file at the name while the first is
//! open here: then the first keeps its place, and the name belongs to the second. A file with several names has a place for
//! each that was looked up; it is published at the first of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pgfiles_store::key::{self, Key, Name, Prefix};
use pgfiles_store::version::{AttrPatch, Kind, Timestamp, VersionId};

use crate::attr::{Facts, InodeNo};
use crate::buffer::Data;
use crate::error::{Result, VfsError};
use crate::progress::Mutex;

/// The async locks of an inode, and its content.
pub(crate) struct Inode {
    pub no: InodeNo,
    /// Held by what changes the names in this directory.
    pub names: Mutex<()>,
    /// Held by what reads or changes the content.
    pub data: Mutex<Data>,
}

/// What is known of an inode.
pub(crate) struct Node {
    pub facts: Facts,
    /// Directory and name, of each name that is known; none for the root and once the last name is gone.
    places: Vec<(InodeNo, Name)>,
    pub children: HashMap<Name, InodeNo>,
    /// Counts changes of names and facts in this directory by this mount: an answer of the store that was asked for
    /// before is not believed.
    pub changes: u64,
    /// Created here and not published yet: no row says that it exists.
    pub pending: bool,
    /// The facts are ahead of the newest row: size and times of written data.
    pub dirty: bool,
    /// Attributes set while pending or dirty: they ride in the row that is published.
    pub patch: AttrPatch,
    /// The last name is gone, by an operation of this mount.
    pub unlinked: bool,
    /// A directory whose times are ahead of its marker.
    times_ahead: bool,
    /// The version whose pages the kernel holds.
    pub kept: Option<VersionId>,
    pub lookups: u64,
    pub opens: u32,
    inode: Option<Arc<Inode>>,
}

/// Something that [`Table::changed`] found.
pub(crate) struct Known {
    pub place: Option<(InodeNo, Name)>,
    pub ino: Option<InodeNo>,
}

pub(crate) struct Table {
    prefix: Prefix,
    nodes: HashMap<InodeNo, Node>,
    /// Open files whose name another client gave to another file: they keep their place.
    strays: HashMap<(InodeNo, Name), Vec<InodeNo>>,
    /// Directories whose times are ahead of their markers.
    ahead: HashSet<InodeNo>,
    /// Counts renames of directories: the paths of all below are other ones since.
    moves: u64,
    /// One is under way: what the store says of any path may be of before or after.
    pub moving: bool,
}

impl Node {
    fn new(facts: Facts, place: Option<(InodeNo, Name)>) -> Self {
        Self {
            facts,
            places: place.into_iter().collect(),
            children: HashMap::new(),
            changes: 0,
            pending: false,
            dirty: false,
            patch: AttrPatch::default(),
            unlinked: false,
            times_ahead: false,
            kept: None,
            lookups: 0,
            opens: 0,
            inode: None,
        }
    }

    /// Where the content is published: directory and name.
    pub fn place(&self) -> Option<&(InodeNo, Name)> {
        self.places.first()
    }

    /// Whether the table knows better than the store.
    pub fn is_ahead(&self) -> bool {
        self.pending || self.dirty || self.unlinked
    }

    fn is_idle(&self) -> bool {
        self.lookups == 0
            && self.opens == 0
            && !self.pending
            && !self.dirty
            && !self.times_ahead
            && self.children.is_empty()
            && self.inode.as_ref().is_none_or(|inode| Arc::strong_count(inode) == 1)
    }
}

impl Table {
    pub fn new(prefix: &Prefix) -> Self {
        let root = Node { lookups: 1, ..Node::new(Facts::implied(prefix, None), None) };
        Self {
            prefix: prefix.clone(),
            nodes: HashMap::from([(InodeNo::ROOT, root)]),
            strays: HashMap::new(),
            ahead: HashSet::new(),
            moves: 0,
            moving: false,
        }
    }

    pub fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub fn node(&self, no: InodeNo) -> Result<&Node> {
        self.nodes.get(&no).ok_or(VfsError::Stale)
    }

    pub fn node_mut(&mut self, no: InodeNo) -> Result<&mut Node> {
        self.nodes.get_mut(&no).ok_or(VfsError::Stale)
    }

    /// The directory of that number.
    pub fn dir(&self, no: InodeNo) -> Result<&Node> {
        let node = self.node(no)?;
        if node.facts.kind == Kind::Dir { Ok(node) } else { Err(VfsError::NotDirectory) }
    }

    /// The locks of an inode, made when first asked for.
    pub fn inode(&mut self, no: InodeNo) -> Result<Arc<Inode>> {
        let node = self.node_mut(no)?;
        let make = || Arc::new(Inode { no, names: Mutex::new(()), data: Mutex::new(Data::default()) });
        Ok(node.inode.get_or_insert_with(make).clone())
    }

    /// Where a directory's names are: the mount's prefix and the path, or its alias.
    pub fn prefix_of(&self, no: InodeNo) -> Result<Prefix> {
        if no == InodeNo::ROOT {
            return Ok(self.prefix.clone());
        }
        if let Some(alias) = self.node(no)?.facts.alias(&self.prefix) {
            return Ok(alias);
        }
        Ok(Key::new(&format!("{}/", self.path(no)?))?.as_dir())
    }

    /// The path of an inode, without a trailing `/`, a directory's too. The root of a mount without a prefix has none:
    /// [`VfsError::NotSupported`].
    pub fn key_of(&self, no: InodeNo) -> Result<Key> {
        if no == InodeNo::ROOT {
            return Ok(self.prefix.marker().ok_or(VfsError::NotSupported)?.as_file());
        }
        Ok(Key::new(&self.path(no)?)?)
    }

    /// The key of a directory's marker; `None` for the root of a mount without a prefix.
    pub fn marker_of(&self, no: InodeNo) -> Result<Option<Key>> {
        if no == InodeNo::ROOT {
            return Ok(self.prefix.marker());
        }
        Ok(self.key_of(no)?.as_dir().marker())
    }

    /// The path of a name in a directory.
    pub fn key_in(&self, parent: InodeNo, name: &Name) -> Result<Key> {
        Ok(self.prefix_of(parent)?.file(name)?)
    }

    fn path(&self, no: InodeNo) -> Result<String> {
        let mut names = Vec::new();
        let mut at = no;
        let mut base = self.prefix.clone();
        while at != InodeNo::ROOT {
            let (parent, name) = self.node(at)?.place().ok_or(VfsError::NotFound)?;
            names.push(name.component());
            at = *parent;
            if let Some(alias) = self.nodes.get(&at).and_then(|node| node.facts.alias(&self.prefix)) {
                base = alias;
                break;
            }
        }
        let mut path = base.as_str().to_owned();
        for (index, name) in names.iter().rev().enumerate() {
            if index > 0 {
                path.push('/');
            }
            path.push_str(name);
        }
        Ok(path)
    }

    /// A directory was renamed: what is known to keep its names below it keeps them below its new place.
    pub fn move_aliases(&mut self, from: &Prefix, to: &Prefix) {
        for node in self.nodes.values_mut() {
            let Some(alias) = node.facts.extra.as_mut().and_then(|extra| extra.alias.as_mut()) else { continue };
            if let Some(rest) = alias.strip_prefix(from.as_str()) {
                *alias = format!("{to}{rest}");
            }
        }
    }

    /// The node that a name of a directory stands for, as far as it is known.
    pub fn child(&self, parent: InodeNo, name: &Name) -> Option<InodeNo> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// Whether `no` is `ancestor` or lies below it.
    pub fn is_below(&self, mut no: InodeNo, ancestor: InodeNo) -> bool {
        loop {
            if no == ancestor {
                return true;
            }
            match self.nodes.get(&no).and_then(Node::place) {
                Some((parent, _)) => no = *parent,
                None => return false,
            }
        }
    }

    /// A free number for facts: their own, or where that is taken by another file, one that their key implies.
    fn number_for(&self, facts: &Facts, key: &Key) -> InodeNo {
        let free = |no: u64| no > 1 && !self.nodes.contains_key(&InodeNo(no));
        let mut no = facts.ino;
        if !free(no) {
            no = key::implied_ino(&key.as_dir());
        }
        while !free(no) {
            no = no.wrapping_add(1);
        }
        InodeNo(no)
    }

    /// Puts a new node at a name, whatever was known to be there.
    pub fn insert(&mut self, parent: InodeNo, name: &Name, key: &Key, facts: Facts) -> Result<InodeNo> {
        self.node(parent)?;
        let no = self.number_for(&facts, key);
        self.nodes.insert(no, Node::new(facts, Some((parent, name.clone()))));
        self.node_mut(parent)?.children.insert(name.clone(), no);
        Ok(no)
    }

    /// Takes over what the store says stands at a name; facts that are ahead of the store stay.
    pub fn admit(&mut self, parent: InodeNo, name: &Name, key: &Key, facts: Facts) -> Result<InodeNo> {
        if let Some(no) = self.child(parent, name) {
            if !self.is_replaced(parent, name, &facts) {
                let node = self.node_mut(no)?;
                if !node.is_ahead() {
                    node.refresh(facts);
                    self.found_at(no, parent, name);
                }
                return Ok(no);
            }
            self.detach(parent, name);
        }
        self.insert(parent, name, key, facts)
    }

    /// The known node that an entry is another name of.
    pub fn linked(&self, facts: &Facts) -> Option<InodeNo> {
        let no = InodeNo(facts.ino);
        let group = facts.hard_link()?;
        let node = self.nodes.get(&no).filter(|node| node.facts.kind == facts.kind)?;
        (node.facts.hard_link() == Some(group)).then_some(no)
    }

    /// A node is found at a name of several; what was known there is detached.
    pub fn add_place(&mut self, no: InodeNo, parent: InodeNo, name: &Name) -> Result<()> {
        self.node(parent)?;
        if self.child(parent, name) != Some(no) {
            self.detach(parent, name);
            self.node_mut(no)?.places.push((parent, name.clone()));
            self.node_mut(parent)?.children.insert(name.clone(), no);
        }
        self.found_at(no, parent, name);
        Ok(())
    }

    /// What others did to the other names of a node is not known: it is published from now on where it was found. Where it has
    /// that name only, the others are gone.
    fn found_at(&mut self, no: InodeNo, parent: InodeNo, name: &Name) {
        let Some(node) = self.nodes.get_mut(&no) else { return };
        let here = |place: &(InodeNo, Name)| (place.0, &place.1) == (parent, name);
        if let Some(at) = node.places.iter().position(here) {
            node.places.swap(0, at);
            let single = node.facts.hard_link().is_none() && !node.is_ahead();
            let gone = if single { node.places.split_off(1) } else { Vec::new() };
            for (dir, name) in gone {
                self.leave(no, (dir, &name));
            }
        }
    }

    /// Whether the node that is known at a name is another file than the one that the store has there now.
    pub fn is_replaced(&self, parent: InodeNo, name: &Name, facts: &Facts) -> bool {
        let no = self.child(parent, name).filter(|_| self.child_ahead(parent, name).is_none());
        let node = no.and_then(|no| self.nodes.get(&no));
        node.is_some_and(|node| node.facts.ino != facts.ino || node.facts.kind != facts.kind)
    }

    /// The node whose number an entry claims although it is known elsewhere, or was believed to have lost its last name:
    /// moved there by another client, maybe. An open file without a name stays what it was.
    pub fn elsewhere(&self, parent: InodeNo, name: &Name, facts: &Facts) -> Option<InodeNo> {
        let no = InodeNo(facts.ino);
        let node = self.nodes.get(&no)?;
        let here = self.child(parent, name) == Some(no);
        let lost = node.unlinked && node.opens == 0;
        (no != InodeNo::ROOT && !here && (lost || !node.is_ahead()) && node.facts.kind == facts.kind).then_some(no)
    }

    /// The name stands for nothing that is known: removed or replaced by another client. An open file keeps its place.
    pub fn detach(&mut self, parent: InodeNo, name: &Name) {
        let Some(dir) = self.nodes.get_mut(&parent) else { return };
        let Some(no) = dir.children.remove(name) else { return };
        if let Some(node) = self.nodes.get_mut(&no)
            && node.places.len() > 1
        {
            node.places.retain(|place| (place.0, &place.1) != (parent, name));
            return;
        }
        self.tidy(no);
        if self.nodes.contains_key(&no) {
            self.strays.entry((parent, name.clone())).or_default().push(no);
        }
    }

    /// Moves a node from one name to another; what was there loses it.
    pub fn place(&mut self, no: InodeNo, from: (InodeNo, &Name), parent: InodeNo, name: &Name) -> Result<()> {
        self.node(parent)?;
        self.leave(no, from);
        self.unlink(parent, name);
        // First: of several names this is the one that it certainly has.
        self.node_mut(no)?.places.insert(0, (parent, name.clone()));
        self.node_mut(parent)?.children.insert(name.clone(), no);
        Ok(())
    }

    /// Two nodes change places.
    pub fn exchange(&mut self, a: (InodeNo, InodeNo, &Name), b: (InodeNo, InodeNo, &Name)) -> Result<()> {
        for (no, parent, name) in [a, b] {
            self.leave(no, (parent, name));
        }
        for (no, parent, name) in [(a.0, b.1, b.2), (b.0, a.1, a.2)] {
            self.node_mut(no)?.places.insert(0, (parent, name.clone()));
            self.node_mut(parent)?.children.insert(name.clone(), no);
        }
        Ok(())
    }

    /// Another client moved a file: its node follows it from the name where it was published, and what was known at the
    /// new one is detached.
    pub fn relocate(&mut self, no: InodeNo, parent: InodeNo, name: &Name) -> Result<()> {
        self.node(parent)?;
        if let Some((dir, old)) = self.node(no)?.place().cloned() {
            self.leave(no, (dir, &old));
        }
        self.detach(parent, name);
        let node = self.node_mut(no)?;
        node.places.insert(0, (parent, name.clone()));
        node.unlinked = false;
        self.node_mut(parent)?.children.insert(name.clone(), no);
        Ok(())
    }

    /// Takes a node from a name.
    fn leave(&mut self, no: InodeNo, (dir, name): (InodeNo, &Name)) {
        let place = (dir, name.clone());
        if let Some(node) = self.nodes.get_mut(&no) {
            node.places.retain(|known| *known != place);
        }
        if let Some(parent) = self.nodes.get_mut(&dir)
            && parent.children.get(name) == Some(&no)
        {
            parent.children.remove(name);
        }
        if let Some(strays) = self.strays.get_mut(&place) {
            strays.retain(|stray| *stray != no);
            if strays.is_empty() {
                self.strays.remove(&place);
            }
        }
    }

    /// A name goes, by this mount. The file whose last one it was is never published again; one that has others is found
    /// under them.
    pub fn unlink(&mut self, parent: InodeNo, name: &Name) {
        let mut gone = self.strays.remove(&(parent, name.clone())).unwrap_or_default();
        gone.extend(self.nodes.get_mut(&parent).and_then(|dir| dir.children.remove(name)));
        for no in gone {
            if let Some(node) = self.nodes.get_mut(&no) {
                node.places.retain(|place| (place.0, &place.1) != (parent, name));
                if node.facts.lose_name() > 0 {
                    continue;
                }
                node.unlinked = true;
                node.pending = false;
                node.dirty = false;
                // Other names that are known here were removed by other clients.
                for (dir, name) in node.places.clone() {
                    self.leave(no, (dir, &name));
                }
            }
            self.ahead.remove(&no);
            self.tidy(no);
        }
    }

    /// Whether a file is known to have names of which none is known here.
    pub fn is_homeless(&self, no: InodeNo) -> bool {
        self.nodes.get(&no).is_some_and(|node| no != InodeNo::ROOT && node.places.is_empty() && !node.unlinked)
    }

    /// The node at a name about which the store need not be asked: it has that one name, and is to be published there. Of a
    /// file with several names, another client may have removed any of them.
    pub fn child_ahead(&self, parent: InodeNo, name: &Name) -> Option<InodeNo> {
        let ahead = |no: &InodeNo| self.nodes.get(no).is_some_and(|node| node.is_ahead() && node.places.len() <= 1);
        self.child(parent, name).filter(ahead)
    }

    /// No name of a file can be found here any more.
    pub fn orphan(&mut self, no: InodeNo) {
        if let Some(node) = self.nodes.get_mut(&no) {
            (node.unlinked, node.pending, node.dirty) = (true, false, false);
        }
        self.tidy(no);
    }

    /// What an answer of the store has to be asked under to be believed: the changes by this mount of a node (a directory
    /// for its names), and of all paths.
    pub fn stamp_of(&self, no: InodeNo) -> Result<(u64, u64)> {
        Ok((self.node(no)?.changes, self.moves))
    }

    /// The rename of a directory begins, or has ended.
    pub fn set_moving(&mut self, moving: bool) {
        self.moving = moving;
        self.moves += 1;
    }

    /// Counts a change in the directory that holds a node.
    pub fn touch(&mut self, no: InodeNo) {
        let parents = self.nodes.get(&no).map_or_else(Vec::new, |node| node.places.iter().map(|place| place.0).collect());
        for no in parents.into_iter().chain([no]) {
            if let Some(node) = self.nodes.get_mut(&no) {
                node.changes += 1;
            }
        }
    }

    /// Forgets lookups.
    pub fn forget(&mut self, no: InodeNo, lookups: u64) {
        if no == InodeNo::ROOT {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&no) {
            node.lookups = node.lookups.saturating_sub(lookups);
            self.tidy(no);
        }
    }

    /// Drops a node that nothing refers to, and parents that only it held.
    pub fn tidy(&mut self, no: InodeNo) {
        let mut idle = vec![no];
        while let Some(no) = idle.pop() {
            if no == InodeNo::ROOT || !self.nodes.get(&no).is_some_and(Node::is_idle) {
                continue;
            }
            for (parent, name) in self.nodes.get(&no).map_or_else(Vec::new, |node| node.places.clone()) {
                self.leave(no, (parent, &name));
                idle.push(parent);
            }
            self.nodes.remove(&no);
        }
    }

    /// Nodes at a key and, for a marker's key, all below it, whose facts are from now on not to be believed.
    pub fn changed(&mut self, key: &Key) -> Vec<Known> {
        let Some(path) = self.prefix.strip(key).map(str::to_owned) else {
            let all = self.prefix.as_str().starts_with(key.as_str()) && key.is_marker();
            return if all { self.below(InodeNo::ROOT) } else { Vec::new() };
        };
        if path.contains("//") {
            // Names of a directory with a long path: it is not worth finding which.
            return self.changed_everywhere();
        }
        let mut at = InodeNo::ROOT;
        let components: Vec<&str> = path.trim_end_matches('/').split('/').filter(|part| !part.is_empty()).collect();
        for component in components {
            let Some(name) = Name::from_component(component) else { return Vec::new() };
            match self.child(at, &name) {
                Some(no) => at = no,
                // It may be believed to be absent, be it the key or a directory on the way to it that is there since.
                None => return vec![Known { place: Some((at, name)), ino: None }, Known { place: None, ino: Some(at) }],
            }
        }
        let mut known = if key.is_marker() { self.below(at) } else { Vec::new() };
        if let Some(node) = self.nodes.get(&at) {
            known.push(Known { place: None, ino: Some(at) });
            known.extend(node.places.iter().map(|place| Known { place: Some(place.clone()), ino: Some(place.0) }));
        }
        self.touch(at);
        known
    }

    /// All nodes: their facts are from now on not to be believed.
    pub fn changed_everywhere(&mut self) -> Vec<Known> {
        self.below(InodeNo::ROOT)
    }

    fn below(&mut self, no: InodeNo) -> Vec<Known> {
        let mut known = Vec::new();
        let mut stack = vec![no];
        while let Some(no) = stack.pop() {
            let Some(node) = self.nodes.get_mut(&no) else { continue };
            node.changes += 1;
            known.push(Known { place: None, ino: Some(no) });
            known.extend(node.places.iter().map(|place| Known { place: Some(place.clone()), ino: None }));
            stack.extend(node.children.values());
        }
        known
    }

    /// Sets a directory's times after a change of its names. Whether they are to be persisted: implied directories have
    /// no row to keep them in.
    pub fn stamp(&mut self, dir: InodeNo, now: Timestamp) -> bool {
        let Some(node) = self.nodes.get_mut(&dir) else { return false };
        node.facts.mtime = now;
        node.facts.ctime = now;
        node.changes += 1;
        node.times_ahead = node.facts.row.is_some() && !node.unlinked;
        node.times_ahead && self.ahead.insert(dir)
    }

    /// Sets a directory's ctime after it was renamed, which gave it a marker if it had none. Whether it is to be persisted.
    pub fn stamp_moved(&mut self, dir: InodeNo, now: Timestamp) -> bool {
        let Some(node) = self.nodes.get_mut(&dir) else { return false };
        node.facts.ctime = now;
        node.times_ahead = true;
        self.ahead.insert(dir)
    }

    /// Directories whose times are to be persisted, ascending by number.
    pub fn dirs_ahead(&mut self, only: Option<InodeNo>) -> Vec<Arc<Inode>> {
        let mut wanted: Vec<InodeNo> = self.ahead.iter().copied().filter(|no| only.is_none_or(|only| only == *no)).collect();
        wanted.sort_unstable();
        wanted.into_iter().filter_map(|no| self.inode(no).ok()).collect()
    }

    /// Marker and times of those that are still ahead. With their data held; [`Table::persisted`] ends it.
    pub fn take_ahead(&mut self, dirs: &[Arc<Inode>]) -> Vec<(InodeNo, Key, Timestamp, Timestamp)> {
        let mut out = Vec::new();
        for no in dirs.iter().map(|dir| dir.no) {
            if !self.ahead.remove(&no) {
                continue;
            }
            let key = self.marker_of(no).ok().flatten();
            let Some(node) = self.nodes.get_mut(&no) else { continue };
            match key {
                Some(key) => out.push((no, key, node.facts.mtime, node.facts.ctime)),
                None => node.times_ahead = false,
            }
        }
        out
    }

    /// The store has a directory's times, unless they changed again meanwhile.
    pub fn persisted(&mut self, dir: InodeNo) {
        let again = self.ahead.contains(&dir);
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.times_ahead = again;
        }
    }

    /// Children of a directory that have no row yet.
    pub fn pending_in(&self, dir: InodeNo) -> Vec<(Name, InodeNo)> {
        let Some(node) = self.nodes.get(&dir) else { return Vec::new() };
        let pending = |no: &InodeNo| self.nodes.get(no).is_some_and(|node| node.pending);
        node.children.iter().filter(|(_, no)| pending(no)).map(|(name, no)| (name.clone(), *no)).collect()
    }
}

impl Node {
    /// Takes over newer facts of the same file. A directory's times that are ahead stay.
    pub fn refresh(&mut self, facts: Facts) {
        let (mtime, ctime) = (self.facts.mtime, self.facts.ctime);
        self.facts = facts;
        if self.times_ahead || (self.facts.kind == Kind::Dir && self.facts.row.is_none()) {
            self.facts.mtime = self.facts.mtime.max(mtime);
            self.facts.ctime = self.facts.ctime.max(ctime);
        }
    }
}
