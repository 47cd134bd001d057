//! `warmup`: names and contents are asked for before a program does, so that the cache of the store has them.

use futures_util::StreamExt as _;
use futures_util::stream;
use pgfiles_store::body::Body;
use pgfiles_store::layout::INLINE_BYTES_MAX;
use pgfiles_store::store::Part;
use pgfiles_store::{Entry, Head, Kind, Prefix};
use serde_json::{Value, json};

use super::target::Found;
use super::{Service, Talk, Target};
use crate::exit::Result;

/// Names asked for at a time.
const PAGE: u32 = 2_000;
/// Requests under way at a time.
const AT_ONCE: usize = 4;
/// Small contents of one request, and what is read of a large one at a time.
const WINDOW_BYTES: u64 = 4 << 20;
const WINDOW_FILES: usize = 256;

/// What was brought near.
#[derive(Debug, Default)]
struct Done {
    files: u64,
    dirs: u64,
    bytes: u64,
    /// There was no room for the rest.
    full: bool,
}

/// Names, and with `contents` the bytes of files, as many as there is `room` for.
pub(super) async fn run(service: &Service, target: &Target, contents: bool, room: u64, talk: &dyn Talk) -> Result<Value> {
    let mut done = Done::default();
    match service.find(target).await? {
        Found::Dir(dir) => tree(service, dir, contents.then_some(room), &mut done, talk).await?,
        Found::File(key) => {
            let found = service.store.lookup(std::slice::from_ref(&key), 0).await?.pop().flatten();
            let heads = found.into_iter().filter_map(|entry| match entry {
                Entry::File(head) => Some(head),
                Entry::Dir(_) => None,
            });
            bodies(service, heads.collect(), contents.then_some(room), &mut done, talk).await?;
        }
        Found::DeadFile(_) => {}
    }
    Ok(json!({"files": done.files, "dirs": done.dirs, "bytes": done.bytes, "full": done.full}))
}

async fn tree(service: &Service, root: Prefix, room: Option<u64>, done: &mut Done, talk: &dyn Talk) -> Result<()> {
    let mut left = vec![root];
    while let Some(dir) = left.pop() {
        done.dirs += 1;
        let mut from = None;
        loop {
            let page = service.store.list(&dir, from.as_ref(), PAGE, 0).await?;
            let mut heads = Vec::new();
            for (name, entry) in page.entries {
                match entry {
                    Entry::File(head) => heads.push(head),
                    Entry::Dir(below) => {
                        let alias = below.marker.as_ref().and_then(|marker| marker.meta.alias.as_deref());
                        let alias = alias.and_then(|alias| pgfiles_store::alias::parse(alias, &Prefix::default()));
                        let own = || pgfiles_store::Key::new(&format!("{dir}{name}/")).ok().map(|key| key.as_dir());
                        left.extend(alias.or_else(own));
                    }
                }
            }
            bodies(service, heads, room, done, talk).await?;
            from = page.next;
            if from.is_none() || done.full {
                break;
            }
        }
        if done.full {
            return Ok(());
        }
    }
    Ok(())
}

/// The contents of some files: small ones together.
async fn bodies(service: &Service, heads: Vec<Head>, room: Option<u64>, done: &mut Done, talk: &dyn Talk) -> Result<()> {
    let Some(room) = room else {
        done.files += heads.len() as u64;
        return Ok(());
    };
    let files = heads.into_iter().filter(|head| head.meta.kind == Kind::File && head.meta.fault.is_none());
    let (small, large): (Vec<Head>, Vec<Head>) =
        files.partition(|head| head.meta.layout.is_none() && head.meta.size <= INLINE_BYTES_MAX);
    let mut groups: Vec<(u64, Vec<Head>)> = Vec::new();
    for head in small {
        let size = head.meta.size;
        match groups.last_mut().filter(|(bytes, group)| bytes + size <= WINDOW_BYTES && group.len() < WINDOW_FILES) {
            Some((bytes, group)) => {
                *bytes += size;
                group.push(head);
            }
            None => groups.push((size, vec![head])),
        }
    }
    groups.extend(large.into_iter().map(|head| (head.meta.size, vec![head])));
    // What would push out what was just brought is left where it is.
    let mut planned = done.bytes;
    let fitting = groups.into_iter().take_while(|(bytes, _)| {
        planned += bytes;
        done.full |= planned > room;
        planned <= room
    });
    let fitting: Vec<(u64, Vec<Head>)> = fitting.collect();
    let mut reads = stream::iter(fitting)
        .map(|(bytes, group)| async move {
            let files = group.len() as u64;
            bring(service, group).await.map(|()| (files, bytes))
        })
        .buffer_unordered(AT_ONCE);
    while let Some(read) = reads.next().await {
        let (files, bytes) = read?;
        done.files += files;
        done.bytes += bytes;
        talk.progress(done.files, None, "files");
    }
    Ok(())
}

async fn bring(service: &Service, group: Vec<Head>) -> Result<()> {
    if let [head] = group.as_slice()
        && (head.meta.layout.is_some() || head.meta.size > INLINE_BYTES_MAX)
    {
        let body = Body::open(&*service.store, head).await?;
        let mut at = 0;
        while at < body.size() {
            at += body.read(&*service.store, at, WINDOW_BYTES).await?.len() as u64;
        }
        return Ok(());
    }
    let part = |head: &Head| Part {
        id: head.meta.body.unwrap_or(head.id),
        lineage: head.meta.body.and(head.meta.lineage),
        offset: 0,
        len: head.meta.size as u32,
    };
    let parts: Vec<Part> = group.iter().filter(|head| head.meta.size > 0).map(part).collect();
    service.store.read(&parts).await?;
    Ok(())
}
