//! One set of tests for every [`Store`]: what each operation does, seen through the trait alone. Call
//! [`store_suite!`](crate::store_suite!) with an async function that makes a fresh [`Subject`].

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pgfiles_store::batch::{Batch, BodyRow, Delete, Op, Outcome, Precondition, Put, RemoveDir, Rename, RenameDir, SetAttr};
use pgfiles_store::body::Body;
use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::error::{Kind, Result};
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::layout::{self, Manifest};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::{Entry, Page, Server, Store};
use pgfiles_store::version::{AttrPatch, Head, Lineage, VersionId, VersionNo};
use serde_json::{Map, Value, json};

use crate::clock::LaterClock;
use crate::postgres::Database;

pub mod batches;
pub mod bodies;
pub mod dirs;
pub mod files;
pub mod links;
pub mod listing;
pub mod locks;
pub mod past;
pub mod property;
pub mod renames;

/// What is tested: a store over an empty table.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The server at its bottom: what other clients see.
    pub server: Arc<dyn Server>,
    /// How time passes there.
    pub time: Arc<dyn Time>,
    /// What has to live as long as the test (a database, a stack).
    pub keep: Box<dyn Any + Send + Sync>,
}

/// How a test makes time pass on a server, for what the server keeps for mounts: rows of bodies and heartbeats.
#[async_trait]
pub trait Time: Send + Sync {
    /// From now on everything that was written is so many seconds older.
    async fn pass(&self, seconds: u32);
}

#[async_trait]
impl Time for LaterClock {
    async fn pass(&self, seconds: u32) {
        self.advance(seconds);
    }
}

/// The rows are made older, for a server's clock cannot be set.
#[async_trait]
impl Time for Database {
    async fn pass(&self, seconds: u32) {
        let older = |field: &str| {
            format!(
                "'{field}', to_char((meta->>'{field}')::timestamptz AT TIME ZONE 'UTC' - interval '{seconds} s', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            )
        };
        let update = format!(
            "UPDATE pgfiles SET meta = meta || jsonb_strip_nulls(jsonb_build_object({}, {})) WHERE left(key, 1) = '/'",
            older("created_at"),
            older("beat")
        );
        self.connect().await.batch_execute(&update).await.expect("rows can be made older");
    }
}

impl Subject {
    /// A server by itself.
    pub fn of(server: Arc<impl Server>, time: Arc<dyn Time>) -> Self {
        Self { store: server.clone(), server, time, keep: Box::new(()) }
    }

    /// An empty [`MemStore`], and the same to go on with.
    pub fn in_memory() -> (Self, Arc<MemStore>) {
        let clock = Arc::new(LaterClock::default());
        let server = Arc::new(MemStore::with_clock(clock.clone()));
        (Self::of(server.clone(), clock), server)
    }
}

/// A test's view of the store, with paths below one prefix.
pub struct Tester {
    /// The store.
    pub store: Arc<dyn Store>,
    /// See [`Subject::server`].
    pub server: Arc<dyn Server>,
    /// See [`Subject::time`].
    pub time: Arc<dyn Time>,
    _keep: Box<dyn Any + Send + Sync>,
}

const ROOT: &str = "suite/";
const MOUNT: &str = "test-mount";

/// A fresh id.
pub fn id() -> VersionId {
    SystemClock.version_id()
}

/// The whole key of a path.
pub fn key(path: &str) -> Key {
    Key::new(&format!("{ROOT}{path}")).expect("a key")
}

/// A path as a directory; "" is the root of the suite.
pub fn dir(path: &str) -> Prefix {
    if path.is_empty() { Prefix::new(ROOT).expect("a prefix") } else { key(path).as_dir() }
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// Who writes in the suite.
pub fn by() -> Arc<Value> {
    Arc::new(json!({"mount": MOUNT}))
}

/// A put of an inline body.
pub fn put(path: &str, data: &[u8]) -> Put {
    let meta = map(json!({"kind": "file", "size": data.len(), "etag": layout::etag(data)}));
    let data = Some(Bytes::copy_from_slice(data));
    let defaults = Map::new();
    Put {
        id: id(),
        key: key(path),
        meta,
        defaults,
        data,
        expect: Precondition::Any,
        extends: None,
        drops: Vec::new(),
        grown: None,
    }
}

/// A put of a directory's marker.
pub fn mkdir(path: &str) -> Put {
    let meta = map(json!({"kind": "dir"}));
    Put { key: key(&format!("{path}/")), meta, data: None, ..put("unused", b"") }
}

/// A deletion.
pub fn delete(path: &str) -> Op {
    Op::Delete(Delete { id: id(), key: key(path), expect: Precondition::Any })
}

/// A removal of a directory.
pub fn rmdir(path: &str, recursive: bool) -> Op {
    Op::RemoveDir(RemoveDir { id: id(), dir: dir(path), recursive })
}

/// A rename of a file that leaves history.
pub fn rename(from: &str, to: &str) -> Rename {
    let (expect_from, expect_to) = (Precondition::Any, Precondition::Any);
    Rename { id: id(), history: id(), from: key(from), to: key(to), expect_from, expect_to, young: None, ctime: None }
}

/// A rename of a directory that leaves history.
pub fn rename_dir(from: &str, to: &str) -> RenameDir {
    RenameDir { id: id(), from: dir(from), to: dir(to), young: None, to_absent: false }
}

/// A change of attributes.
pub fn set_attr(path: &str, patch: AttrPatch) -> SetAttr {
    SetAttr { key: key(path), patch, expect: Precondition::Any, explicit: None }
}

/// The kind of a refusal.
///
/// # Panics
/// If there was none.
pub fn refused<T>(result: Result<T>) -> Kind {
    match result {
        Ok(_) => panic!("was not refused"),
        Err(error) => error.kind(),
    }
}

impl Tester {
    /// A test's view of a subject.
    pub fn new(subject: Subject) -> Self {
        Self { store: subject.store, server: subject.server, time: subject.time, _keep: subject.keep }
    }

    /// Commits one operation.
    pub async fn run(&self, op: Op) -> Result<Outcome> {
        let outcomes = self.store.commit(Batch::one(op, &by())).await?;
        assert_eq!(outcomes.len(), 1);
        Ok(outcomes.into_iter().next().unwrap_or_default())
    }

    /// Commits several operations at once.
    pub async fn run_all(&self, ops: Vec<Op>) -> Result<Vec<Outcome>> {
        self.store.commit(Batch { ops, ..Batch::one(delete("unused"), &by()) }).await
    }

    /// Writes a file; its new head.
    pub async fn write(&self, path: &str, data: &[u8]) -> Head {
        self.run(Op::Put(put(path, data))).await.expect("put").head.expect("a put has a head")
    }

    /// Makes a directory.
    pub async fn make_dir(&self, path: &str) {
        self.run(Op::Put(mkdir(path))).await.expect("mkdir");
    }

    /// Does what must succeed.
    pub async fn must(&self, op: Op) -> Outcome {
        let what = format!("{op:?}");
        self.run(op).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// What stands at a path.
    pub async fn entry(&self, path: &str) -> Option<Entry> {
        self.store.lookup(&[key(path)], 1 << 20).await.expect("lookup").remove(0)
    }

    /// The live file at a path.
    pub async fn file(&self, path: &str) -> Option<Head> {
        match self.entry(path).await {
            Some(Entry::File(head)) => Some(head),
            _ => None,
        }
    }

    /// Whether a directory stands at a path.
    pub async fn is_dir(&self, path: &str) -> bool {
        matches!(self.entry(path).await, Some(Entry::Dir(_)))
    }

    /// The bytes of the live file at a path.
    pub async fn text(&self, path: &str) -> Option<Vec<u8>> {
        let head = self.file(path).await?;
        Some(self.bytes(&head).await)
    }

    /// The bytes of a version.
    pub async fn bytes(&self, head: &Head) -> Vec<u8> {
        self.try_bytes(head).await.unwrap_or_else(|error| panic!("{:?} version {}: {error}", head.key, head.version))
    }

    /// The bytes of a version, or why not.
    pub async fn try_bytes(&self, head: &Head) -> Result<Vec<u8>> {
        let body = Body::open(&*self.store, head).await?;
        Ok(body.read(&*self.store, 0, body.size()).await?.to_vec())
    }

    /// The versions of a key, newest first.
    pub async fn versions(&self, path: &str) -> Vec<Head> {
        self.store.versions(&key(path), None, 1000).await.expect("versions")
    }

    /// A version of a key.
    pub async fn version(&self, path: &str, number: u64) -> Option<Head> {
        self.versions(path).await.into_iter().find(|head| head.version == VersionNo(number))
    }

    /// All names of a directory, directories with a `/`, read in pages of `limit`.
    pub async fn names(&self, path: &str, limit: u32) -> Vec<String> {
        let mut names = Vec::new();
        let mut from = None;
        loop {
            let page: Page = self.store.list(&dir(path), from.as_ref(), limit, 0).await.expect("list");
            assert!(page.entries.len() <= limit as usize, "a page has at most {limit} entries");
            assert!(page.next.is_none() || !page.entries.is_empty(), "an empty page is the last");
            names.extend(page.entries.iter().map(|(name, entry)| match entry {
                Entry::Dir(_) => format!("{name}/"),
                Entry::File(_) => name.clone(),
            }));
            from = page.next;
            if from.is_none() {
                return names;
            }
        }
    }

    /// Keys of all live rows under the suite's root, without it.
    pub async fn tree(&self) -> Vec<String> {
        let heads = self.store.tree(&dir(""), None, 10_000).await.expect("tree");
        let below = heads.iter().filter_map(|head| head.key.as_str().strip_prefix(ROOT)).filter(|path| !path.is_empty());
        below.map(str::to_owned).collect()
    }
}

/// The operations that write a chunked body: body rows (leaves too) and the put. `chunks` holds the bytes of each chunk,
/// `None` for a hole; `reuse` gives rows that are there already.
pub fn chunked(path: &str, lineage: Lineage, chunk: u32, size: u64, chunks: &[Option<Bytes>]) -> (Vec<Op>, Put) {
    let mut ops = Vec::new();
    let mut entries = Vec::new();
    let mut row = |data: Bytes| {
        let row = BodyRow { id: id(), lineage, dir: key(path).parent(), data, mount: MOUNT.into() };
        let id = row.id;
        ops.push(Op::Body(row));
        id
    };
    for data in chunks {
        entries.push(data.clone().map(&mut row));
    }
    let manifest = Manifest { chunk, entries };
    let root = if manifest.levels() == 2 {
        let leaf = |leaf: &[Option<VersionId>]| leaf.iter().any(Option::is_some).then(|| layout::encode(leaf));
        let leaves: Vec<_> = manifest.entries.chunks(layout::LEAF_ENTRIES).map(leaf).map(|leaf| leaf.map(&mut row)).collect();
        layout::encode(&leaves)
    } else {
        layout::encode(&manifest.entries)
    };
    let put = put_of_manifest(path, lineage, &manifest, size, root);
    (ops, put)
}

/// A put whose `data` is that manifest.
pub fn put_of_manifest(path: &str, lineage: Lineage, manifest: &Manifest, size: u64, root: Bytes) -> Put {
    let levels = manifest.levels();
    let meta = map(json!({
        "kind": "file", "size": size, "etag": layout::manifest_etag(manifest, size, &root), "lin": lineage.0.to_string(),
        "layout": {"codec": "chunks", "chunk": manifest.chunk, "levels": levels, "sum": "sha256"},
    }));
    Put { meta, data: Some(root), ..put(path, b"") }
}

/// Makes one test per case of the suite; the argument is an `async fn() -> Subject`.
#[macro_export]
macro_rules! store_suite {
    ($factory:path) => {
        $crate::store_suite!(@of $factory, files:
            a_put_is_seen_and_numbered, versions_come_newest_first_in_pages, small_bodies_come_along,
            a_version_inherits_what_is_not_content, preconditions_hold_or_conflict, absent_means_no_directory_either,
            a_deletion_is_a_version, attributes_merge_into_the_head, an_extended_version_keeps_its_number,
            special_files_keep_what_they_are, a_version_says_who_and_when, reserved_keys_are_refused);
        $crate::store_suite!(@of $factory, dirs:
            a_marker_makes_a_directory, an_implied_directory_stays_when_its_last_name_leaves,
            a_live_key_is_always_reachable, removing_a_directory, removing_a_tree, an_implied_directory_becomes_explicit,
            renaming_a_directory_moves_all, renaming_a_directory_is_refused, an_implied_directory_keeps_its_number);
        $crate::store_suite!(@of $factory, listing:
            names_come_in_byte_order_on_any_page_size, the_dead_are_not_listed, names_that_stay_are_listed_once,
            odd_keys_hide_nothing, a_name_can_be_both, trees_come_in_order, what_is_deleted_comes_in_order, a_missing_directory_lists_as_empty);
        $crate::store_suite!(@of $factory, renames:
            a_rename_moves_bytes_and_leaves_links, a_rename_makes_the_target_history, a_young_file_just_moves,
            an_older_file_does_not_just_move, renames_check_both_ends, a_young_directory_just_moves, chunked_files_move);
        $crate::store_suite!(@of $factory, links:
            a_link_is_another_name_of_the_same_inode, what_is_written_to_one_name_is_written_to_all,
            a_version_in_progress_is_one_under_every_name, a_version_in_progress_goes_on_after_renames, a_name_that_goes_leaves_the_others, links_survive_renames,
            a_restore_reaches_all_names_a_copy_none, a_purge_of_one_name_leaves_the_others_whole,
            what_cannot_be_linked_is_refused, many_names_share_one_inode, a_link_sent_twice_is_made_once,
            files_change_places, directories_change_places);
        $crate::store_suite!(@of $factory, bodies:
            chunked_bodies_read_back, two_levels_read_back, references_stay_in_their_lineage, missing_rows_are_corrupt,
            a_body_that_is_gone_is_refused, replaced_chunks_are_dropped, slices_are_read_and_kept, parts_are_cut_as_asked, unused_bodies_are_swept,
            fresh_bodies_are_safe_before_the_first_heartbeat);
        $crate::store_suite!(@of $factory, past:
            a_restore_is_a_new_version, what_cannot_be_restored_is_refused, a_copy_has_the_content,
            a_directory_is_restored_to_a_moment, moments_are_transactions, a_purged_key_is_gone,
            a_purge_hands_bytes_over, parts_of_a_history_are_purged, a_prefix_is_purged_in_slices, usage_counts);
        $crate::store_suite!(@of $factory, batches:
            a_batch_is_all_or_nothing, operations_see_earlier_ones, a_batch_sent_twice_is_applied_once,
            a_lost_reply_is_made_up_for, a_deletion_sent_again_behind_something_newer_changes_nothing, another_life_is_refused, ten_writers_leave_no_gap,
            one_of_many_creators_wins, removal_and_creation_never_hide_a_file, many_puts_in_one_batch,
            rows_are_present_or_not);
        $crate::store_suite!(@of $factory, locks:
            a_lock_keeps_others_out, readers_share_and_upgrade, changes_are_all_or_none, a_lease_that_ended_holds_nothing,
            the_next_lease_leaves_the_locks_of_the_last_behind, there_is_an_end_to_ranges,
            random_ranges_match_single_bytes, one_of_many_gets_the_lock);
        $crate::store_suite!(@of $factory, property: random_operations_match_the_model);
    };
    (@of $factory:path, $module:ident: $($case:ident),* $(,)?) => {
        mod $module {
            #[allow(unused_imports)] // the factory's name
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::store_suite::$module::$case($crate::store_suite::Tester::new($factory().await)).await;
                }
            )*
        }
    };
}
