//! `restore`: a file's older content, or a directory's at a moment, as new versions.

use pgfiles_store::batch::{Batch, Durability, Op, Precondition, Restore, RestoreDir};
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Key, Prefix, VersionNo};
use serde_json::json;

use super::target::Found;
use super::versions::{MOMENTS_MAX, of_file};
use super::{Answer, Service, Target};
use crate::exit::{Failure, Result};

pub(super) async fn run(service: &Service, target: &Target, to: &str) -> Result<Answer> {
    match service.find(target).await? {
        Found::File(key) | Found::DeadFile(key) => file(service, target, key, to).await,
        Found::Dir(dir) => directory(service, target, &dir, to).await,
    }
}

async fn file(service: &Service, target: &Target, key: Key, to: &str) -> Result<Answer> {
    let shown = &target.shown;
    let version = match (to.parse::<u64>(), Timestamp::parse(to)) {
        (Ok(number), _) => VersionNo(number),
        (_, Some(at)) => {
            let all = of_file(service, &key, u64::MAX).await?;
            let then = all.iter().find(|head| head.meta.created_at.is_some_and(|created| created <= at));
            then.ok_or_else(|| Failure::not_found(format!("{shown} has no version from {to} or before")))?.version
        }
        _ => {
            let why = "a version is a number as `pgfiles version` prints it, or a time such as 2026-01-31T12:00:00Z";
            return Err(Failure::usage(format!("{shown}: {to:?}: {why}")));
        }
    };
    let id = service.clock.version_id();
    let op = Op::Restore(Restore { id, key: key.clone(), version, expect: Precondition::Any });
    let mut batch = Batch::one(op, &service.by);
    batch.durability = Durability::Sync;
    let outcome = service.store.commit(batch).await.map_err(|error| {
        let hint = format!("`pgfiles version {shown}` lists those there are");
        let failure = Failure::from(error);
        Failure { message: format!("{shown}: cannot restore version {version}: {}; {hint}", failure.message), ..failure }
    })?;
    let new = outcome.first().and_then(|outcome| outcome.head.as_ref()).map(|head| head.version.0);
    let value = json!({"path": shown, "key": key.as_str(), "restored_from": version.0, "version": new});
    Ok(Answer { value, changed: vec![key] })
}

async fn directory(service: &Service, target: &Target, dir: &Prefix, to: &str) -> Result<Answer> {
    let shown = &target.shown;
    let at = match (to.parse::<u64>(), Timestamp::parse(to)) {
        (Ok(number), _) => {
            let moments = service.store.history(dir, MOMENTS_MAX).await?;
            let found = moments.iter().find(|moment| moment.number == number);
            let why = || format!("{shown} has no moment {number}: `pgfiles version {shown}` lists those there are");
            found.ok_or_else(|| Failure::not_found(why()))?.at
        }
        (_, Some(at)) => at,
        _ => {
            let why =
                "a directory is restored to a number as `pgfiles version` prints it, or to a time such as 2026-01-31T12:00:00Z";
            return Err(Failure::usage(format!("{shown}: {to:?}: {why}")));
        }
    };
    let op = Op::RestoreDir(RestoreDir { dir: dir.clone(), at, id: service.clock.version_id() });
    let mut batch = Batch::one(op, &service.by);
    batch.durability = Durability::Sync;
    let outcome = service.store.commit(batch).await.map_err(|error| Failure::from(error).while_(shown))?;
    let files = outcome.first().map_or(0, |outcome| outcome.files);
    let value = json!({"path": shown, "key": dir.as_str(), "at": at.to_string(), "files": files});
    Ok(Answer { value, changed: dir.marker().into_iter().collect() })
}
