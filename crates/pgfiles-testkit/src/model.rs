//! The reference model of the filesystem: a tree of plain maps, with the refusals that a local disk gives. What of it is
//! saved, and as which versions, is in [`crate::vfs_model`].

use std::collections::BTreeMap;
use std::sync::Arc;

use pgfiles_store::version::Timestamp;

/// A node of the model; 0 is the root.
pub type Id = usize;

/// A directory and a name in it.
pub type Place = (Id, Vec<u8>);

/// Why the model refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    Invalid,
    NotPermitted,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Its bytes.
    File(Arc<Vec<u8>>),
    /// Its names.
    Dir(BTreeMap<Vec<u8>, Id>),
    /// Its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
}

/// What `stat` and `listxattr` show besides; `None`: not known, to be taken over when it is seen.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Attrs {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// `None`: not checked. Only where one was set and the content has not changed since.
    pub mtime: Option<Timestamp>,
    /// `None`: not checked.
    pub atime: Option<Timestamp>,
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// How far a node is saved: see `docs/semantics.md`, Saving.
#[derive(Debug, Clone, Default)]
pub struct Saving {
    /// No row says that it exists.
    pub pending: bool,
    /// Its content is ahead of its newest version.
    pub dirty: bool,
    /// Nothing but its creation or a truncation is unpublished.
    pub trivial: bool,
    /// The version in progress.
    pub extends: Option<u64>,
    /// Somebody saved that version and closed: what another description writes is a version of its own.
    pub seal: bool,
    /// The description that changed the content last.
    pub writer: Option<u64>,
    /// When it is published without anyone asking: milliseconds of the wall clock.
    pub due: Option<i64>,
    /// The mount that holds what is unpublished.
    pub mount: usize,
    /// The attributes that the store has.
    pub attrs: Attrs,
}

/// A file, directory, symlink or pipe.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Node {
    pub kind: Kind,
    pub attrs: Attrs,
    /// Its names; none once the last one is gone, and for the root.
    pub places: Vec<Place>,
    /// The number that it was first seen with.
    pub ino: Option<u64>,
    pub saving: Saving,
}

/// The tree.
#[derive(Debug, Clone)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Self {
        let root = Node::new(Kind::Dir(BTreeMap::new()), Attrs::default(), Vec::new());
        Self { nodes: vec![root] }
    }
}

impl Node {
    fn new(kind: Kind, attrs: Attrs, places: Vec<Place>) -> Self {
        let saving = Saving { attrs: attrs.clone(), ..Saving::default() };
        Self { kind, attrs, places, ino: None, saving }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File(_))
    }

    /// The bytes of a file.
    pub fn bytes(&self) -> &[u8] {
        match &self.kind {
            Kind::File(bytes) => bytes,
            Kind::Dir(_) | Kind::Symlink(_) | Kind::Fifo => &[],
        }
    }
}

impl Model {
    /// A node.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// A node to be changed.
    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id]
    }

    /// The names of a directory.
    pub fn names(&self, dir: Id) -> &BTreeMap<Vec<u8>, Id> {
        static NONE: BTreeMap<Vec<u8>, Id> = BTreeMap::new();
        match &self.nodes[dir].kind {
            Kind::Dir(names) => names,
            Kind::File(_) | Kind::Symlink(_) | Kind::Fifo => &NONE,
        }
    }

    fn names_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.nodes[dir].kind {
            Kind::Dir(names) => names,
            Kind::File(_) | Kind::Symlink(_) | Kind::Fifo => panic!("not a directory"),
        }
    }

    /// What a name stands for.
    pub fn find(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.names(dir).get(name).copied()
    }

    /// All nodes that have a name, parents first, and the root; each once.
    pub fn all(&self) -> Vec<Id> {
        let mut all = vec![0];
        let mut at = 0;
        while let Some(&id) = all.get(at) {
            all.extend(self.names(id).values());
            at += 1;
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|id| seen.insert(*id));
        all
    }

    /// All directories.
    pub fn dirs(&self) -> Vec<Id> {
        self.all().into_iter().filter(|id| self.node(*id).is_dir()).collect()
    }

    /// The names from the root to a place.
    pub fn path_to(&self, (dir, name): &Place) -> Vec<Vec<u8>> {
        let mut path = vec![name.clone()];
        let mut at = *dir;
        while let Some((parent, name)) = self.nodes[at].places.first() {
            path.push(name.clone());
            at = *parent;
        }
        path.reverse();
        path
    }

    /// The names from the root to a node, by its first name; `None` if it has none any more.
    pub fn path(&self, id: Id) -> Option<Vec<Vec<u8>>> {
        if id == 0 {
            return Some(Vec::new());
        }
        Some(self.path_to(self.nodes[id].places.first()?))
    }

    /// Whether a node is another one or has a name below it.
    pub fn is_within(&self, id: Id, dir: Id) -> bool {
        id == dir || self.nodes[id].places.iter().any(|(parent, _)| self.is_within(*parent, dir))
    }

    /// Gives a new node a name.
    pub fn make(&mut self, dir: Id, name: &[u8], kind: Kind, attrs: Attrs) -> Result<Id, Refusal> {
        if self.find(dir, name).is_some() {
            return Err(Refusal::Exists);
        }
        let id = self.nodes.len();
        self.nodes.push(Node::new(kind, attrs, vec![(dir, name.to_vec())]));
        self.names_mut(dir).insert(name.to_vec(), id);
        Ok(id)
    }

    /// Gives a node one more name.
    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        if self.find(dir, name).is_some() {
            return Err(Refusal::Exists);
        }
        if self.node(id).is_dir() {
            return Err(Refusal::NotPermitted);
        }
        if self.node(id).places.is_empty() {
            return Err(Refusal::NotFound);
        }
        self.attach(id, dir, name);
        Ok(())
    }

    /// Removes the name of anything but a directory.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<Id, Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        if self.node(id).is_dir() {
            return Err(Refusal::IsDirectory);
        }
        self.detach(dir, name);
        Ok(id)
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        if !self.node(id).is_dir() {
            return Err(Refusal::NotDirectory);
        }
        if !self.names(id).is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.detach(dir, name);
        Ok(())
    }

    /// Whether a rename may be: what is moved and what it replaces; `None` where both names are of one file already.
    pub fn may_rename(
        &self,
        (dir, name): (Id, &[u8]),
        (to, to_name): (Id, &[u8]),
        noreplace: bool,
    ) -> Result<Option<(Id, Option<Id>)>, Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        let target = self.find(to, to_name);
        if noreplace && target.is_some() {
            return Err(Refusal::Exists);
        }
        if target == Some(id) {
            return Ok(None);
        }
        if self.node(id).is_dir() && self.is_within(to, id) {
            return Err(Refusal::Invalid);
        }
        if let Some(target) = target {
            match (self.node(id).is_dir(), self.node(target).is_dir()) {
                (true, false) => return Err(Refusal::NotDirectory),
                (false, true) => return Err(Refusal::IsDirectory),
                (true, true) if !self.names(target).is_empty() => return Err(Refusal::NotEmpty),
                (true, true) | (false, false) => {}
            }
        }
        Ok(Some((id, target)))
    }

    /// Moves a name that [`Model::may_rename`].
    pub fn rename(&mut self, id: Id, (dir, name): (Id, &[u8]), (to, to_name): (Id, &[u8])) {
        self.detach(to, to_name);
        self.detach(dir, name);
        self.attach(id, to, to_name);
    }

    /// Whether two names may change places; `None` where both are of one file.
    pub fn may_exchange(&self, (dir, name): (Id, &[u8]), (to, to_name): (Id, &[u8])) -> Result<Option<(Id, Id)>, Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        let other = self.find(to, to_name).ok_or(Refusal::NotFound)?;
        if id == other {
            return Ok(None);
        }
        let below = |place, dir| self.node(dir).is_dir() && self.is_within(place, dir);
        if below(to, id) || below(dir, other) { Err(Refusal::Invalid) } else { Ok(Some((id, other))) }
    }

    /// Two names change places that [`Model::may_exchange`].
    pub fn exchange(&mut self, (id, dir, name): (Id, Id, &[u8]), (other, to, to_name): (Id, Id, &[u8])) {
        self.detach(dir, name);
        self.detach(to, to_name);
        self.attach(id, to, to_name);
        self.attach(other, dir, name);
    }

    fn attach(&mut self, id: Id, dir: Id, name: &[u8]) {
        self.nodes[id].places.push((dir, name.to_vec()));
        self.names_mut(dir).insert(name.to_vec(), id);
    }

    /// Takes a name away, whatever it stands for.
    pub fn detach(&mut self, dir: Id, name: &[u8]) {
        if let Some(id) = self.names_mut(dir).remove(name) {
            self.nodes[id].places.retain(|place| (place.0, &*place.1) != (dir, name));
        }
    }

    /// The bytes of a file, to be changed: its mtime is another one from now on.
    pub fn bytes_mut(&mut self, id: Id) -> &mut Vec<u8> {
        self.nodes[id].attrs.mtime = None;
        match &mut self.nodes[id].kind {
            Kind::File(bytes) => Arc::make_mut(bytes),
            Kind::Dir(_) | Kind::Symlink(_) | Kind::Fifo => panic!("not a file"),
        }
    }

    /// Writes bytes at an offset (`None`: at the end).
    pub fn write(&mut self, id: Id, offset: Option<usize>, data: &[u8]) {
        let bytes = self.bytes_mut(id);
        let offset = offset.unwrap_or(bytes.len());
        if !data.is_empty() {
            bytes.resize(bytes.len().max(offset + data.len()), 0);
            bytes[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    /// Cuts or extends with zeros.
    pub fn truncate(&mut self, id: Id, size: usize) {
        self.bytes_mut(id).resize(size, 0);
    }
}
