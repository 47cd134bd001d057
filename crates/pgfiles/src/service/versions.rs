//! The versions of a file and the moments of a directory.

use pgfiles_store::store::Moment;
use pgfiles_store::{Head, Key, Store, VersionNo};
use serde_json::{Map, Value, json};

use super::target::Found;
use super::{Service, Target};
use crate::exit::Result;

/// Versions per round trip.
const PAGE: u32 = 1_000;
/// The most moments of a directory that are looked at.
pub(super) const MOMENTS_MAX: u32 = 100_000;

/// `{"kind":"file","versions":[…]}` or `{"kind":"dir","versions":[…]}`, newest first.
pub(super) async fn run(service: &Service, target: &Target, limit: Option<u64>) -> Result<Value> {
    let limit = limit.unwrap_or(u64::MAX);
    match service.find(target).await? {
        Found::File(key) | Found::DeadFile(key) => {
            let all = of_file(service, &key, limit).await?;
            Ok(json!({"kind": "file", "versions": all.iter().map(shown).collect::<Vec<_>>()}))
        }
        Found::Dir(dir) => {
            let moments = service.store.history(&dir, limit.min(u64::from(MOMENTS_MAX)) as u32).await?;
            Ok(json!({"kind": "dir", "versions": moments.iter().map(moment).collect::<Vec<_>>()}))
        }
    }
}

/// Newest first.
pub(super) async fn of_file(service: &Service, key: &Key, limit: u64) -> Result<Vec<Head>> {
    of_key(&*service.store, key, limit).await
}

/// The same of any store.
pub(crate) async fn of_key(store: &dyn Store, key: &Key, limit: u64) -> Result<Vec<Head>> {
    let mut all: Vec<Head> = Vec::new();
    let mut before: Option<VersionNo> = None;
    while (all.len() as u64) < limit {
        let want = (limit - all.len() as u64).min(u64::from(PAGE)) as u32;
        let page = store.versions(key, before, want).await?;
        let Some(last) = page.last() else { break };
        // A row that some tool wrote without a number is the last that a page can go on from.
        let next = (before != Some(last.version) && last.version.0 > 0).then_some(last.version);
        let short = page.len() < want as usize;
        all.extend(page);
        if short || next.is_none() {
            break;
        }
        before = next;
    }
    Ok(all)
}

/// The public fields of a version; those that say where its bytes lie are left out.
pub(crate) fn shown(head: &Head) -> Value {
    let mut out = Map::new();
    out.insert("version".into(), head.version.0.into());
    out.insert("id".into(), head.id.to_string().into());
    out.insert("key".into(), head.key.as_str().into());
    let mut fields = head.meta.to_json();
    for internal in ["lin", "body", "revive", "op"] {
        fields.remove(internal);
    }
    out.extend(fields);
    Value::Object(out)
}

fn moment(moment: &Moment) -> Value {
    json!({"number": moment.number, "at": moment.at.to_string(), "versions": moment.versions, "by": moment.by})
}
