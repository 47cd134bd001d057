//! Random operations on the schema's functions against a model of plain maps: after any sequence every version that was not
//! purged reads its own bytes, numbers are dense, live keys are reachable from the root, and no body row is left over.

use std::collections::{BTreeMap, BTreeSet};

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::Postgres;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

const CHUNK: usize = 4096;
const DIRS: [&str; 6] = ["", "a/", "a/b/", "a/b/c/", "d/", "d/e/"];
const NAMES: [&str; 3] = ["x", "y", "z!"];

/// A version: its number, and its bytes (`None`: a tombstone).
type Versions = BTreeMap<u64, Option<Vec<u8>>>;

#[derive(Default)]
struct Model {
    files: BTreeMap<String, Versions>,
    /// Markers' versions: whether alive.
    dirs: BTreeMap<String, BTreeMap<u64, bool>>,
}

impl Model {
    fn head(&self, key: &str) -> Option<&Vec<u8>> {
        self.files.get(key)?.values().next_back()?.as_ref()
    }
    fn live(&self) -> Vec<String> {
        self.files.keys().filter(|key| self.head(key).is_some()).cloned().collect()
    }
    fn push(&mut self, key: &str, content: Option<Vec<u8>>) -> u64 {
        let versions = self.files.entry(key.into()).or_default();
        let number = versions.keys().next_back().unwrap_or(&0) + 1;
        versions.insert(number, content);
        number
    }
    fn marker(&self, dir: &str) -> bool {
        self.dirs.get(dir).and_then(|versions| versions.values().next_back()).copied().unwrap_or(false)
    }
    fn mark(&mut self, dir: &str, alive: bool) {
        if !dir.is_empty() {
            let versions = self.dirs.entry(dir.into()).or_default();
            let number = versions.keys().next_back().unwrap_or(&0) + 1;
            versions.insert(number, alive);
        }
    }
    fn keep(&mut self, dir: &str) {
        if !self.marker(dir) {
            self.mark(dir, true);
        }
    }
    fn below(&self, dir: &str) -> Vec<String> {
        self.live().into_iter().filter(|key| key.starts_with(dir)).collect()
    }
    fn markers_below(&self, dir: &str) -> Vec<String> {
        self.dirs.keys().filter(|key| key.starts_with(dir) && self.marker(key)).cloned().collect()
    }
    fn alive(&self, dir: &str) -> bool {
        dir.is_empty() || !self.markers_below(dir).is_empty() || !self.below(dir).is_empty()
    }
    /// Every directory with something live below it, or a live marker.
    fn all_dirs(&self) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        let markers = self.dirs.keys().filter(|dir| self.marker(dir)).cloned();
        for key in self.live().into_iter().chain(markers) {
            for (at, _) in key.match_indices('/') {
                out.insert(key[..=at].to_owned());
            }
        }
        out
    }
}

fn parent(key: &str) -> &str {
    let body = key.strip_suffix('/').unwrap_or(key);
    body.rfind('/').map_or("", |at| &body[..=at])
}

struct Run {
    client: Client,
    model: Model,
    rng: StdRng,
    log: Vec<String>,
}

fn sha(data: &[u8]) -> String {
    pgfiles_store::layout::etag(data)
}

/// Sends a batch as the store does: an operation that is alone in it by the function for its kind, and by `pgfiles_commit`
/// where somebody came first.
pub async fn commit(client: &Client, ops: &Value, bodies: &[Vec<u8>], opts: &Value) -> Result<Value, tokio_postgres::Error> {
    if let ([op], None | Some(Value::Bool(false))) = (ops.as_array().unwrap().as_slice(), opts.get("again")) {
        let body = bodies.first();
        let answer = match op["op"].as_str() {
            Some("put") => Some(client.query_one("SELECT pgfiles_create($1, $2, $3)", &[op, &body, opts]).await),
            Some("delete") => Some(client.query_one("SELECT pgfiles_unlink($1, $2)", &[op, opts]).await),
            Some("setattr") => Some(client.query_one("SELECT pgfiles_chmod($1, $2)", &[op, opts]).await),
            Some("rename") => Some(client.query_one("SELECT pgfiles_move($1, $2)", &[op, opts]).await),
            _ => None,
        };
        match answer {
            Some(Err(error)) if error.code().is_some_and(|code| code.code() == "23505") => {}
            Some(answer) => return answer.map(|row| json!([row.get::<_, Value>(0)])),
            None => {}
        }
    }
    client.query_one("SELECT pgfiles_commit($1, $2, $3)", &[ops, &bodies, opts]).await.map(|row| row.get(0))
}

impl Run {
    async fn commit(&mut self, ops: Value, bodies: Vec<Vec<u8>>) -> Result<Value, String> {
        let opts = json!({"by": {"mount": "m1"}, "sync": false, "again": false, "life": null});
        self.log.push(ops.to_string());
        let first = self.call(&ops, &bodies, &opts).await?;
        // A resent batch has no second effect and gives the same answer.
        let again = json!({"by": {"mount": "m1"}, "again": true});
        let second = self.call(&ops, &bodies, &again).await.unwrap_or_else(|error| panic!("sent again: {error}\n{ops}"));
        for (one, two) in first.as_array().unwrap().iter().zip(second.as_array().unwrap()) {
            for field in ["key", "meta", "moved"] {
                if one.get(field).is_some_and(|value| !value.is_null()) && one["id"] == two["id"] {
                    assert_eq!(one[field], two[field], "sent again: {field} differs\n{ops}");
                }
            }
        }
        Ok(first)
    }

    async fn call(&self, ops: &Value, bodies: &[Vec<u8>], opts: &Value) -> Result<Value, String> {
        commit(&self.client, ops, bodies, opts).await.map_err(|error| match error.as_db_error() {
            Some(db) if db.code().code().starts_with("PF") => db.code().code().to_owned(),
            _ => panic!("{error:?}\n{ops}"),
        })
    }

    fn key(&mut self) -> String {
        format!("{}{}", DIRS.choose(&mut self.rng).unwrap(), NAMES.choose(&mut self.rng).unwrap())
    }
    fn live_key(&mut self) -> Option<String> {
        self.model.live().choose(&mut self.rng).cloned()
    }
    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = self.rng.random_range(0..=max);
        (0..len).map(|_| self.rng.random()).collect()
    }

    async fn put(&mut self) {
        let key = self.key();
        let max = *[100, 5000].choose(&mut self.rng).unwrap();
        let data = self.bytes(max);
        let extends = self.extended(&key).await;
        let op = json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": {"kind": "file", "size": data.len(), "etag": sha(&data)},
            "defaults": {"mode": "0644"}, "body": 1, "expect": null, "extends": extends, "drops": []});
        let made = self.commit(json!([op]), vec![data.clone()]).await.unwrap();
        self.put_done(&key, data, &made[0]);
    }

    /// Sometimes the head's id, to be extended.
    async fn extended(&mut self, key: &str) -> Option<Uuid> {
        self.model.head(key)?;
        if self.rng.random_bool(0.6) {
            return None;
        }
        let row = self.client.query_one("SELECT id FROM pgfiles_stat(ARRAY[$1], 0) WHERE NOT is_dir", &[&key]).await;
        row.ok().map(|row| row.get(0))
    }

    fn put_done(&mut self, key: &str, data: Vec<u8>, made: &Value) {
        let number = made["meta"]["version"].as_u64().unwrap();
        let versions = self.model.files.entry(key.into()).or_default();
        let newest = versions.keys().next_back().copied().unwrap_or(0);
        assert!(number == newest || number == newest + 1, "version {number} after {newest} of {key}");
        versions.insert(number, Some(data));
    }

    /// A chunked body: some chunks of the head if it is chunked, new ones, holes.
    async fn put_chunked(&mut self) {
        let key = self.key();
        let query =
            "SELECT p.id, p.meta, p.data FROM pgfiles p WHERE p.key = $1 ORDER BY (p.meta->>'version')::bigint DESC LIMIT 1";
        let head = self.client.query_opt(query, &[&key]).await.unwrap();
        let head = head.map(|row| (row.get::<_, Uuid>(0), row.get::<_, Value>(1), row.get::<_, Option<Vec<u8>>>(2)));
        let base = head.filter(|(_, meta, _)| meta["layout"]["levels"] == json!(1) && meta["deleted"] != json!(true));
        let lin = base.as_ref().map_or_else(Uuid::new_v4, |(_, meta, _)| meta["lin"].as_str().unwrap().parse().unwrap());
        let old: Vec<Uuid> = base.as_ref().map_or(vec![], |(_, _, data)| {
            data.as_ref().unwrap().chunks(16).map(|entry| Uuid::from_slice(entry).unwrap()).collect()
        });
        let mut old_bytes = base.as_ref().and_then(|_| self.model.head(&key)).cloned().unwrap_or_default();
        old_bytes.resize(old.len() * CHUNK, 0);
        let (mut ops, mut bodies, mut manifest, mut whole) = (vec![], vec![], vec![], vec![]);
        for slot in 0..self.rng.random_range(1..5) {
            let id = match self.rng.random_range(0..3) {
                0 if slot < old.len() => {
                    whole.extend_from_slice(&old_bytes[slot * CHUNK..(slot + 1) * CHUNK]);
                    old[slot]
                }
                1 => {
                    whole.resize(whole.len() + CHUNK, 0);
                    Uuid::nil()
                }
                _ => {
                    let id = Uuid::now_v7();
                    let chunk = self.bytes(CHUNK);
                    whole.extend_from_slice(&chunk);
                    whole.resize((slot + 1) * CHUNK, 0);
                    bodies.push(chunk.clone());
                    ops.push(body(parent(&key), lin, id, &chunk, bodies.len()));
                    id
                }
            };
            manifest.extend_from_slice(id.as_bytes());
        }
        let entries = manifest.chunks(16).map(|entry| Uuid::from_slice(entry).unwrap()).collect::<Vec<_>>();
        let levels = if self.rng.random_bool(0.3) {
            let leaf = Uuid::now_v7();
            bodies.push(manifest.clone());
            ops.push(body(parent(&key), lin, leaf, &manifest, bodies.len()));
            manifest = leaf.as_bytes().to_vec();
            2
        } else {
            1
        };
        let etag = sha(&manifest);
        bodies.push(manifest);
        let extends = if self.rng.random_bool(0.5) { base.as_ref().map(|(id, ..)| *id) } else { None };
        let drops: Vec<Uuid> = match extends {
            Some(_) => old.into_iter().filter(|id| !id.is_nil() && !entries.contains(id)).collect(),
            None => vec![],
        };
        ops.push(json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": {"kind": "file", "size": whole.len(), "etag": etag, "lin": lin,
            "layout": {"codec": "chunks", "chunk": CHUNK, "levels": levels, "sum": "sha256"}}, "defaults": {"mode": "0644"},
            "body": bodies.len(), "expect": null, "extends": extends, "drops": drops}));
        let made = self.commit(Value::Array(ops), bodies).await.unwrap();
        self.put_done(&key, whole, made.as_array().unwrap().last().unwrap());
    }

    async fn insert_by_sql(&mut self) {
        let (key, data) = (self.key(), self.bytes(4000));
        self.log.push(format!("INSERT {key}"));
        self.client.execute("INSERT INTO pgfiles(key, data) VALUES ($1, $2)", &[&key, &data]).await.unwrap();
        self.model.push(&key, Some(data));
    }

    async fn update_by_sql(&mut self) {
        let Some(key) = self.live_key() else { return };
        let data = self.bytes(3000);
        self.log.push(format!("UPDATE {key}"));
        let update = "UPDATE pgfiles SET data = $2 WHERE id = (SELECT id FROM pgfiles WHERE key = $1 \
                      ORDER BY (meta->>'version')::bigint DESC LIMIT 1)";
        self.client.execute(update, &[&key, &data]).await.unwrap();
        let versions = self.model.files.get_mut(&key).unwrap();
        *versions.values_mut().next_back().unwrap() = Some(data);
    }

    async fn delete_by_sql(&mut self) {
        let Some(key) = self.model.files.keys().cloned().collect::<Vec<_>>().choose(&mut self.rng).cloned() else { return };
        let versions = &self.model.files[&key];
        let Some(number) = versions.keys().copied().collect::<Vec<_>>().choose(&mut self.rng).copied() else { return };
        self.log.push(format!("DELETE {key} {number}"));
        let delete = "DELETE FROM pgfiles WHERE key = $1 AND (meta->>'version')::bigint = $2";
        assert_eq!(self.client.execute(delete, &[&key, &(number as i64)]).await.unwrap(), 1);
        self.model.files.get_mut(&key).unwrap().remove(&number);
    }

    async fn delete_marker_by_sql(&mut self) {
        let dir = *DIRS[1..].choose(&mut self.rng).unwrap();
        self.log.push(format!("DELETE {dir}"));
        let newest = "DELETE FROM pgfiles WHERE id = (SELECT id FROM pgfiles WHERE key = $1 ORDER BY (meta->>'version')::bigint DESC LIMIT 1)";
        self.client.execute(newest, &[&dir]).await.unwrap();
        self.sync_dirs().await;
    }

    async fn delete(&mut self) {
        let Some(key) = self.live_key() else { return };
        self.commit(json!([{"op": "delete", "id": Uuid::now_v7(), "key": key, "expect": null}]), vec![]).await.unwrap();
        self.model.push(&key, None);
        self.model.keep(parent(&key));
    }

    async fn set_attr(&mut self) {
        let Some(key) = self.live_key() else { return };
        let patch = json!({"mode": "0600", "tags": {"n": self.rng.random_range(0..9).to_string()}});
        self.commit(json!([{"op": "setattr", "key": key, "patch": patch, "expect": null, "explicit": null}]), vec![])
            .await
            .unwrap();
    }

    async fn rename(&mut self) {
        let Some(from) = self.live_key() else { return };
        let to = self.key();
        let young = if self.rng.random_bool(0.4) { json!({"mount": "m1", "seconds": 60}) } else { Value::Null };
        let op = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": from, "to": to, "expect_from": null,
            "expect_to": null, "young": young, "ctime": "2026-01-01T00:00:00Z"});
        let made = self.commit(json!([op]), vec![]).await.unwrap();
        if from == to {
            return;
        }
        let data = self.model.head(&from).cloned();
        self.model.push(&to, data);
        if made[0]["moved"] == json!(true) {
            assert_eq!(self.model.files[&from].len(), 1);
            self.model.files.remove(&from);
        } else {
            self.model.push(&from, None);
        }
        self.model.keep(parent(&from));
    }

    async fn rename_dir(&mut self) {
        let (from, to) =
            (*DIRS[1..].choose(&mut self.rng).unwrap(), *["q/", "a/", "d/e/", "r/s/", "a/b/"].choose(&mut self.rng).unwrap());
        let young = if self.rng.random_bool(0.4) { json!({"mount": "m1", "seconds": 60}) } else { Value::Null };
        let op = json!({"op": "renamedir", "id": Uuid::now_v7(), "from": from, "to": to, "to_absent": false, "young": young});
        let result = self.commit(json!([op]), vec![]).await;
        let below = self.model.below(from);
        let code = if to.starts_with(from) {
            Some("PF004")
        } else if !self.model.alive(from) {
            Some("PF001")
        } else if self.model.below(to).len() + self.model.markers_below(to).iter().filter(|dir| *dir != to).count() > 0 {
            Some("PF003")
        } else {
            None
        };
        assert_eq!(result.as_ref().err().map(String::as_str), code, "{from} to {to}");
        let Ok(made) = result else { return };
        assert_eq!(made[0]["files"], json!(below.len()));
        for key in below {
            let data = self.model.head(&key).cloned();
            self.model.push(&key.replacen(from, to, 1), data);
            let row = self.client.query_one("SELECT count(*) FROM pgfiles WHERE key = $1", &[&key]).await.unwrap();
            if row.get::<_, i64>(0) == 0 {
                self.model.files.remove(&key);
            } else {
                self.model.push(&key, None);
            }
        }
        self.sync_dirs().await;
    }

    async fn remove_dir(&mut self) {
        let dir = *DIRS[1..].choose(&mut self.rng).unwrap();
        let recursive = self.rng.random_bool(0.3);
        let op = json!({"op": "rmdir", "id": Uuid::now_v7(), "dir": dir, "recursive": recursive});
        let result = self.commit(json!([op]), vec![]).await;
        let below = self.model.below(dir);
        let inner = self.model.markers_below(dir).iter().filter(|inner| *inner != dir).count();
        let code = if !self.model.alive(dir) {
            Some("PF001")
        } else if !recursive && below.len() + inner > 0 {
            Some("PF003")
        } else {
            None
        };
        assert_eq!(result.as_ref().err().map(String::as_str), code, "{dir}");
        if result.is_ok() {
            for key in below {
                self.model.push(&key, None);
            }
            self.sync_dirs().await;
        }
    }

    async fn make_dir(&mut self) {
        let dir = *DIRS[1..].choose(&mut self.rng).unwrap();
        let op = json!({"op": "put", "id": Uuid::now_v7(), "key": dir, "meta": {"kind": "dir", "mode": "0755"}, "defaults": {}, "body": null,
            "expect": {"absent": true}, "extends": null, "drops": []});
        let result = self.commit(json!([op]), vec![]).await;
        let there = self.model.alive(dir) || self.model.head(&dir[..dir.len() - 1]).is_some();
        assert_eq!(result.err().as_deref(), there.then_some("PF002"), "{dir}");
        if !there {
            self.model.mark(dir, true);
        }
    }

    async fn copy(&mut self) {
        let Some(from) = self.live_key() else { return };
        let to = self.key();
        let op = json!({"op": "copy", "id": Uuid::now_v7(), "from": from, "version": null, "to": to, "expect": null, "meta": {"ino": "5"}});
        self.commit(json!([op]), vec![]).await.unwrap();
        let data = self.model.head(&from).cloned();
        self.model.push(&to, data);
    }

    async fn restore(&mut self) {
        let key = self.key();
        let Some((number, data)) = self.model.files.get(&key).and_then(|all| all.iter().next()).map(|(n, d)| (*n, d.clone()))
        else {
            return;
        };
        let op = json!({"op": "restore", "id": Uuid::now_v7(), "key": key, "version": number, "expect": null});
        let result = self.commit(json!([op]), vec![]).await;
        assert_eq!(result.err().as_deref(), data.is_none().then_some("PF004"));
        if data.is_some() {
            self.model.push(&key, data);
        }
    }

    async fn restore_dir(&mut self) {
        let dir = *DIRS.choose(&mut self.rng).unwrap();
        let clock = self.client.query_one("SELECT pgfiles_now()", &[]).await.unwrap().get::<_, String>(0);
        let before: BTreeMap<String, Option<Vec<u8>>> = self
            .model
            .files
            .keys()
            .filter(|key| key.starts_with(dir))
            .map(|key| (key.clone(), self.model.head(key).cloned()))
            .collect();
        // An extended version is gone, so none is made here.
        for _ in 0..3 {
            Box::pin(self.step_of(&[4, 6])).await;
        }
        let op = json!({"op": "restoredir", "id": Uuid::now_v7(), "dir": dir, "at": clock});
        self.commit(json!([op]), vec![]).await.unwrap();
        for (key, then) in before {
            if let Some(then) = then
                && self.model.files.contains_key(&key)
                && self.model.head(&key) != Some(&then)
            {
                self.model.push(&key, Some(then));
            }
        }
        self.sync_dirs().await;
        self.sync_numbers().await;
    }

    async fn purge(&mut self) {
        let (query, scope, keep): (_, Value, Option<i32>) = match self.rng.random_range(0..4) {
            0 => ("key", json!({"key": self.key()}), None),
            1 => ("key", json!({"key": self.key()}), Some(1)),
            2 => ("dead", json!({"prefix": "", "after": null, "limit": 5}), None),
            _ => ("prefix", json!({"prefix": DIRS.choose(&mut self.rng).unwrap(), "after": null, "limit": 3}), Some(2)),
        };
        self.log.push(format!("purge {query} {scope} {keep:?}"));
        let dead = query == "dead";
        let mut scope = scope;
        loop {
            let sql = "SELECT pgfiles_purge($1, $2, NULL, $3, $4)";
            let dry: Value = self.client.query_one(sql, &[&scope, &keep, &dead, &true]).await.unwrap().get(0);
            let made: Value = self.client.query_one(sql, &[&scope, &keep, &dead, &false]).await.unwrap().get(0);
            assert_eq!(dry, made, "a dry run counts what the real one removes");
            if made["next"].is_null() {
                break;
            }
            scope["after"] = made["next"].clone();
        }
        let prefix = scope["prefix"].as_str().unwrap_or("").to_owned();
        let one = scope["key"].as_str().map(str::to_owned);
        for (key, versions) in &mut self.model.files {
            let meant = one.as_ref().map_or(key.starts_with(&prefix), |one| one == key);
            if meant && !(dead && versions.values().next_back().is_none_or(Option::is_some)) {
                let keep = keep.unwrap_or(0) as usize;
                let gone: Vec<u64> = versions.keys().rev().skip(keep).copied().collect();
                versions.retain(|number, _| !gone.contains(number));
            }
        }
        self.sync_dirs().await;
    }

    /// Markers as they are now: the model says little about when one is written, and [`Run::check`] says what must hold.
    async fn sync_dirs(&mut self) {
        let rows = "SELECT key, (meta->>'version')::bigint, meta->>'deleted' IS NULL FROM pgfiles WHERE key LIKE '%/' AND key NOT LIKE '/%'";
        self.model.dirs.clear();
        for row in self.client.query(rows, &[]).await.unwrap() {
            self.model.dirs.entry(row.get(0)).or_default().insert(row.get::<_, i64>(1) as u64, row.get(2));
        }
    }

    /// Numbers as they are (a restored file may have come back by several steps); contents stay the model's.
    async fn sync_numbers(&mut self) {
        for (key, versions) in &self.model.files {
            let rows = "SELECT count(*) FROM pgfiles WHERE key = $1";
            let count: i64 = self.client.query_one(rows, &[key]).await.unwrap().get(0);
            assert_eq!(count as usize, versions.len(), "versions of {key}");
        }
    }

    async fn check(&mut self) {
        let sql = "SELECT key, (meta->>'version')::bigint, meta->>'deleted' IS NOT NULL, \
            CASE WHEN meta->>'deleted' IS NULL THEN pgfiles_bytes(meta, data) END, meta ? 'body', \
            id = (SELECT h.id FROM pgfiles h WHERE h.key = p.key ORDER BY (h.meta->>'version')::bigint DESC LIMIT 1) \
            FROM pgfiles p WHERE left(key, 1) <> '/' AND right(key, 1) <> '/'";
        let mut there: BTreeMap<String, Versions> = BTreeMap::new();
        for row in self.client.query(sql, &[]).await.unwrap() {
            let (key, number, dead): (String, i64, bool) = (row.get(0), row.get(1), row.get(2));
            let data: Option<Vec<u8>> = row.get(3);
            there.entry(key).or_default().insert(number as u64, if dead { None } else { Some(data.unwrap_or_default()) });
        }
        self.model.files.retain(|_, versions| !versions.is_empty());
        for (key, versions) in &self.model.files {
            let found = there.get(key).cloned().unwrap_or_default();
            let brief =
                |all: &Versions| all.iter().map(|(n, d)| (*n, d.as_ref().map(|d| sha(d)[..6].to_owned()))).collect::<Vec<_>>();
            assert_eq!(brief(&found), brief(versions), "versions of {key}");
        }
        assert_eq!(there.keys().collect::<Vec<_>>(), self.model.files.keys().collect::<Vec<_>>());
        self.check_bodies().await;
        self.check_reachable().await;
    }

    /// Every body row is used by a version.
    async fn check_bodies(&self) {
        let sql = "SELECT b.key FROM pgfiles b WHERE left(b.key, 1) = '/' AND NOT b.id IN (SELECT pgfiles_used(b.meta->>'lin'))";
        let left: Vec<String> = self.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(left.is_empty(), "left over: {left:?}");
    }

    async fn check_reachable(&mut self) {
        let (mut files, mut dirs, mut todo) = (BTreeSet::new(), BTreeSet::new(), vec![String::new()]);
        while let Some(dir) = todo.pop() {
            let mut pos: Option<String> = None;
            loop {
                let page = "SELECT name, is_dir, next_pos FROM pgfiles_dir($1, $2, 2, 0)";
                let rows = self.client.query(page, &[&dir, &pos]).await.unwrap();
                for row in &rows {
                    let name: String = row.get(0);
                    if row.get(1) {
                        dirs.insert(format!("{dir}{name}/"));
                        todo.push(format!("{dir}{name}/"));
                    } else {
                        files.insert(format!("{dir}{name}"));
                    }
                    pos = Some(row.get(2));
                }
                if rows.len() < 2 {
                    break;
                }
            }
        }
        assert_eq!(files, self.model.live().into_iter().collect(), "files reached from the root");
        assert_eq!(dirs, self.model.all_dirs(), "directories reached from the root");
        for dir in DIRS[1..].iter().chain(&["q/", "r/", "r/s/"]) {
            let alive = self.client.query_one("SELECT pgfiles_dir_alive($1)", &[dir]).await.unwrap();
            assert_eq!(alive.get::<_, bool>(0), dirs.contains(*dir), "stat of {dir}");
        }
        let tree = self.client.query("SELECT key FROM pgfiles_tree('', NULL, 100000)", &[]).await.unwrap();
        let live: BTreeSet<String> = tree.iter().map(|row| row.get(0)).filter(|key: &String| !key.ends_with('/')).collect();
        assert_eq!(live, files, "tree");
    }

    async fn step_of(&mut self, choice: &[u32]) {
        match choice.choose(&mut self.rng).unwrap() {
            0 | 1 => self.put().await,
            2 | 3 => self.put_chunked().await,
            4 => self.insert_by_sql().await,
            5 => self.update_by_sql().await,
            6 | 7 => self.delete().await,
            8..=10 => self.rename().await,
            11 => self.rename_dir().await,
            12 => self.remove_dir().await,
            13 => self.make_dir().await,
            14 => self.copy().await,
            15 => self.restore().await,
            16 => self.purge().await,
            17 => self.set_attr().await,
            18 => self.delete_by_sql().await,
            19 => self.delete_marker_by_sql().await,
            _ => self.restore_dir().await,
        }
    }
}

fn body(dir: &str, lin: Uuid, id: Uuid, data: &[u8], index: usize) -> Value {
    let key = format!("/{dir}{}/{}", lin.simple(), id.simple());
    json!({"op": "body", "id": id, "key": key, "lin": lin, "mount": "m1", "sum": sha(data), "body": index})
}

async fn run(seed: u64, steps: usize) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    let mut run = Run { client, model: Model::default(), rng: StdRng::seed_from_u64(seed), log: vec![] };
    let all: Vec<u32> = (0..21).collect();
    for step in 0..steps {
        run.step_of(&all).await;
        if std::env::var_os("PGFILES_TEST_LOG").is_some() {
            eprintln!("{step}: {}", run.log.last().map_or("", String::as_str));
        }
        run.check().await;
    }
}

#[tokio::test]
async fn every_version_reads_its_bytes_after_any_operations() {
    let seed = std::env::var("PGFILES_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let steps = std::env::var("PGFILES_TEST_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(150);
    for seed in seed.map_or(1..=4, |seed: u64| seed..=seed) {
        eprintln!("seed {seed}");
        run(seed, steps).await;
    }
}
