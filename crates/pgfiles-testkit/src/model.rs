//! The reference model of the filesystem: a tree of plain maps, with the refusals that a local disk gives.

use std::collections::BTreeMap;

use pgfiles_store::version::Timestamp;

/// A node of the model; 0 is the root.
pub type Id = usize;

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
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Its bytes.
    File(Vec<u8>),
    /// Its names.
    Dir(BTreeMap<Vec<u8>, Id>),
    /// Its target.
    Symlink(Vec<u8>),
}

/// A file, directory or symlink.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    /// Where one was set and the content has not changed since.
    pub mtime: Option<Timestamp>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `None`: the last name is gone.
    pub place: Option<(Id, Vec<u8>)>,
    /// The number that it was first seen with.
    pub ino: Option<u64>,
}

/// The tree.
#[derive(Debug, Clone)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Self {
        Self { nodes: vec![Node::new(Kind::Dir(BTreeMap::new()), 0o755, None)] }
    }
}

impl Node {
    fn new(kind: Kind, mode: u32, place: Option<(Id, Vec<u8>)>) -> Self {
        Self { kind, mode, uid: 0, mtime: None, xattrs: BTreeMap::new(), place, ino: None }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir(_))
    }

    /// The bytes of a file.
    pub fn bytes(&self) -> &[u8] {
        match &self.kind {
            Kind::File(bytes) => bytes,
            Kind::Dir(_) | Kind::Symlink(_) => &[],
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
            Kind::File(_) | Kind::Symlink(_) => &NONE,
        }
    }

    fn names_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.nodes[dir].kind {
            Kind::Dir(names) => names,
            Kind::File(_) | Kind::Symlink(_) => panic!("not a directory"),
        }
    }

    /// What a name stands for.
    pub fn find(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.names(dir).get(name).copied()
    }

    /// All nodes that have a name, parents first, and the root.
    pub fn all(&self) -> Vec<Id> {
        let mut all = vec![0];
        let mut at = 0;
        while let Some(&id) = all.get(at) {
            all.extend(self.names(id).values());
            at += 1;
        }
        all
    }

    /// All directories.
    pub fn dirs(&self) -> Vec<Id> {
        self.all().into_iter().filter(|id| self.node(*id).is_dir()).collect()
    }

    /// The names from the root to a node; `None` if it has none any more.
    pub fn path(&self, id: Id) -> Option<Vec<Vec<u8>>> {
        let mut path = Vec::new();
        let mut at = id;
        while at != 0 {
            let (parent, name) = self.nodes[at].place.clone()?;
            path.push(name);
            at = parent;
        }
        path.reverse();
        Some(path)
    }

    /// Whether a node is another one or lies below it.
    pub fn is_within(&self, mut id: Id, dir: Id) -> bool {
        while id != dir {
            match &self.nodes[id].place {
                Some((parent, _)) => id = *parent,
                None => return false,
            }
        }
        true
    }

    /// Gives a new node a name.
    pub fn make(&mut self, dir: Id, name: &[u8], kind: Kind, mode: u32) -> Result<Id, Refusal> {
        if self.find(dir, name).is_some() {
            return Err(Refusal::Exists);
        }
        let id = self.nodes.len();
        self.nodes.push(Node::new(kind, mode, Some((dir, name.to_vec()))));
        self.names_mut(dir).insert(name.to_vec(), id);
        Ok(id)
    }

    /// Removes the name of a file or symlink.
    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        if self.node(id).is_dir() {
            return Err(Refusal::IsDirectory);
        }
        self.detach(id);
        Ok(())
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
        self.detach(id);
        Ok(())
    }

    /// Moves a name.
    pub fn rename(&mut self, dir: Id, name: &[u8], to: Id, to_name: &[u8], noreplace: bool) -> Result<(), Refusal> {
        let id = self.find(dir, name).ok_or(Refusal::NotFound)?;
        let target = self.find(to, to_name);
        if noreplace && target.is_some() {
            return Err(Refusal::Exists);
        }
        if target == Some(id) {
            return Ok(());
        }
        if self.node(id).is_dir() && self.is_within(to, id) {
            return Err(Refusal::Invalid);
        }
        if let Some(target) = target {
            match (self.node(id).is_dir(), self.node(target).is_dir()) {
                (true, false) => return Err(Refusal::NotDirectory),
                (false, true) => return Err(Refusal::IsDirectory),
                (true, true) if !self.names(target).is_empty() => return Err(Refusal::NotEmpty),
                (true, true) | (false, false) => self.detach(target),
            }
        }
        self.detach(id);
        self.nodes[id].place = Some((to, to_name.to_vec()));
        self.names_mut(to).insert(to_name.to_vec(), id);
        Ok(())
    }

    fn detach(&mut self, id: Id) {
        if let Some((parent, name)) = self.nodes[id].place.take() {
            self.names_mut(parent).remove(&name);
        }
    }

    /// Writes bytes at an offset (`None`: at the end).
    pub fn write(&mut self, id: Id, offset: Option<usize>, data: &[u8]) {
        self.nodes[id].mtime = None;
        let Kind::File(bytes) = &mut self.nodes[id].kind else { panic!("not a file") };
        let offset = offset.unwrap_or(bytes.len());
        if !data.is_empty() {
            bytes.resize(bytes.len().max(offset + data.len()), 0);
            bytes[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    /// Cuts or extends with zeros.
    pub fn truncate(&mut self, id: Id, size: usize) {
        self.nodes[id].mtime = None;
        let Kind::File(bytes) = &mut self.nodes[id].kind else { panic!("not a file") };
        bytes.resize(size, 0);
    }
}
