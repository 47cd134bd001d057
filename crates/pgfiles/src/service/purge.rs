//! `purge` and `purge-prefix`: versions removed for good.

use pgfiles_store::Key;
use pgfiles_store::store::{Purge, PurgeReport, PurgeScope};
use serde_json::json;

use super::target::Found;
use super::{Answer, Service, Talk, Target, What};
use crate::exit::{Failure, Result};

pub(super) async fn run(service: &Service, target: &Target, what: &What, talk: &dyn Talk) -> Result<Answer> {
    let found = service.find(target).await?;
    let mut sum = PurgeReport::default();
    let mut slices = 0;
    let changed: Vec<Key> = match found {
        Found::File(key) | Found::DeadFile(key) => {
            add(&mut sum, one(service, PurgeScope::Key(key.clone()), what).await?);
            vec![key]
        }
        Found::Dir(dir) => {
            let mut after = None;
            loop {
                let part = one(service, PurgeScope::Prefix(dir.clone(), after), what).await;
                let part = part.map_err(|failure| stopped(failure, &sum, what))?;
                after = part.next.clone();
                add(&mut sum, part);
                slices += 1;
                talk.progress(sum.rows + sum.body_rows, None, if what.dry_run { "rows counted" } else { "rows removed" });
                if after.is_none() {
                    break;
                }
            }
            dir.marker().into_iter().collect()
        }
    };
    tracing::debug!(slices, rows = sum.rows, "purge");
    let value = json!({
        "path": target.shown, "key": target.key, "dry_run": what.dry_run,
        "rows": sum.rows, "body_rows": sum.body_rows, "bytes": sum.bytes,
    });
    Ok(Answer { value, changed: if what.dry_run { Vec::new() } else { changed } })
}

async fn one(service: &Service, scope: PurgeScope, what: &What) -> Result<PurgeReport> {
    let What { keep, older_than, dead, dry_run } = *what;
    Ok(service.store.purge(&Purge { scope, keep, older_than, dead, dry_run }).await?)
}

fn add(sum: &mut PurgeReport, part: PurgeReport) {
    sum.rows += part.rows;
    sum.body_rows += part.body_rows;
    sum.bytes += part.bytes;
}

/// A purge of a prefix goes key by key: what was removed before an error stays removed, and running it again goes on.
fn stopped(failure: Failure, sum: &PurgeReport, what: &What) -> Failure {
    if what.dry_run || sum.rows == 0 {
        return failure;
    }
    let message = format!("{} ({} rows were removed before; run it again to go on)", failure.message, sum.rows);
    Failure { message, ..failure }
}
