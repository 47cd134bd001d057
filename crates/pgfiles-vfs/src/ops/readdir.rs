//! opendir, readdir, releasedir, fsyncdir.

use std::sync::Arc;

use pgfiles_store::batch::Durability;
use pgfiles_store::key::Name;
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::{Facts, InodeNo};
use crate::dir::{DirEntry, Listing, PAGE_NAMES};
use crate::error::{Result, VfsError};
use crate::handle::HandleId;

impl Vfs {
    /// Opens a directory stream.
    ///
    /// # Errors
    /// [`VfsError::NotDirectory`].
    pub async fn opendir(&self, ino: InodeNo) -> Result<HandleId> {
        let mut table = self.table();
        table.dir(ino)?;
        table.node_mut(ino)?.opens += 1;
        drop(table);
        Ok(self.handles().add_dir(ino))
    }

    /// Closes a directory stream.
    pub fn releasedir(&self, handle: HandleId) {
        let Some(dir) = self.handles().remove_dir(handle) else { return };
        let mut table = self.table();
        if let Ok(node) = table.node_mut(dir.no) {
            node.opens = node.opens.saturating_sub(1);
        }
        // Nodes that a page brought and nobody was told of.
        if let Some(listing) = dir.listing.try_lock() {
            for (_, no, _) in &listing.names {
                table.tidy(*no);
            }
        }
        table.tidy(dir.no);
    }

    /// Persists a directory's times, and makes all that was done in it durable.
    ///
    /// # Errors
    /// What the store says.
    pub async fn fsyncdir(self: &Arc<Self>, ino: InodeNo) -> Result<()> {
        if self.config.read_only {
            return Ok(());
        }
        // Where this commits, all that was before it is durable as well, and there is nothing left to sync.
        self.persist_dirs(Some(ino), Durability::Sync).await;
        Ok(self.store.sync().await?)
    }

    /// Names from an offset on, at most `max`; none at the end. With `plus`, each carries its attributes and counts as a
    /// lookup, to be given back by the caller for those that it does not hand on. One round trip per page of
    /// names.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`]; what the store says.
    pub async fn readdir(self: &Arc<Self>, handle: HandleId, offset: u64, max: usize, plus: bool) -> Result<Vec<DirEntry>> {
        let dir = self.handles().dir(handle)?;
        let mut listing = dir.listing.lock().await;
        if offset == 0 && listing.started {
            // rewinddir: a new look.
            *listing = Listing::default();
        }
        listing.started = true;
        let mut out = Vec::new();
        let mut at = offset;
        while out.len() < max {
            if at < 2 {
                out.push(self.dot(dir.no, at)?);
                at += 1;
                continue;
            }
            let index = (at - 2) as usize;
            let Some((name, no, kind)) = listing.names.get(index).cloned() else {
                if listing.complete {
                    break;
                }
                self.fetch(dir.no, &mut listing, plus).await?;
                continue;
            };
            at += 1;
            let mut entry = DirEntry { next: at, name: name.as_bytes().to_vec(), ino: no, kind, plus: None };
            if plus {
                // Removed meanwhile: not shown any more.
                let Some(no) = self.find_listed(dir.no, &name).await? else { continue };
                let reply = self.entry(no)?;
                entry = DirEntry { ino: no, kind: reply.attr.kind, plus: Some((reply.attr, reply.ttl)), ..entry };
            }
            out.push(entry);
        }
        Ok(out)
    }

    /// A name that a page showed: its node, where that is known already.
    async fn find_listed(&self, parent: InodeNo, name: &Name) -> Result<Option<InodeNo>> {
        let known = self.table().child(parent, name);
        if known.is_some() { Ok(known) } else { self.find(parent, name).await }
    }

    fn dot(&self, no: InodeNo, at: u64) -> Result<DirEntry> {
        let table = self.table();
        let parent = table.node(no)?.place().map_or(InodeNo::ROOT, |place| place.0);
        let (name, ino) = if at == 0 { (".", no) } else { ("..", parent) };
        Ok(DirEntry { next: at + 1, name: name.into(), ino, kind: Kind::Dir, plus: None })
    }

    /// The next page of names; after the last, the names that have no row yet.
    async fn fetch(&self, no: InodeNo, listing: &mut Listing, plus: bool) -> Result<()> {
        let (prefix, changes) = {
            let table = self.table();
            match table.prefix_of(no) {
                Ok(prefix) => {
                    listing.pending.extend(table.pending_in(no));
                    (prefix, table.dir(no)?.changes)
                }
                Err(VfsError::NotFound) => {
                    listing.complete = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        };
        let page = self.store.list(&prefix, listing.next.as_ref(), PAGE_NAMES, 0).await?;
        let mut table = self.table();
        let believed = table.dir(no)?.changes == changes;
        for (component, entry) in &page.entries {
            let Some(name) = Name::from_component(component) else { continue };
            let Ok(key) = prefix.file(&name) else { continue };
            if !listing.seen.insert(name.clone()) {
                continue;
            }
            let facts = Facts::of_entry(entry, &key);
            let kind = facts.kind;
            if believed && table.is_replaced(no, &name, &facts) {
                table.detach(no, &name);
            }
            // Where this mount changed the directory meanwhile, the page tells names and nothing else. What is known at
            // another name was moved here, maybe: a lookup finds out.
            let ino = match table.child(no, &name) {
                Some(known) if !believed => known,
                None if !plus || !believed || table.elsewhere(no, &name, &facts).is_some() => InodeNo(facts.ino),
                Some(_) | None => table.admit(no, &name, &key, facts)?,
            };
            listing.names.push((name, ino, kind));
        }
        listing.next = page.next;
        if listing.next.is_none() {
            listing.complete = true;
            let mut pending = std::mem::take(&mut listing.pending);
            pending.extend(table.pending_in(no));
            for (name, ino) in pending {
                if table.child(no, &name) == Some(ino) && listing.seen.insert(name.clone()) {
                    listing.names.push((name, ino, Kind::File));
                }
            }
        }
        Ok(())
    }
}
