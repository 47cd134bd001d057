//! `pgfiles put`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pgfiles_store::key::escape;
use pgfiles_store::{Key, Precondition, VersionNo};
use serde_json::{Value, json};

use super::Context;
use super::import::said;
use super::reach::{Progress, Reach, Spot};
use crate::exit::{Exit, Failure, Result};
use crate::files::{Amount, Attributes, There, Watch as _, stopped};
use crate::output;
use crate::service::Target;

/// Write files of this machine, or stdin, each as a new version, on the server's disk when it returns.
///
/// The last argument is where to: a directory that is there (or ends in `/`), or for one file its new path.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles put report.pdf reports/\n  pg_dump app | pgfiles put - backups/app.sql\n  pgfiles put --if-version 3 --tag run=17 config.yaml config.yaml"
)]
pub(super) struct Args {
    /// Local files, `-` for stdin, or with -r directories; then where to.
    #[arg(required = true, num_args = 2.., value_name = "LOCAL… DEST")]
    paths: Vec<OsString>,
    /// Directories with all below, as `import` does.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    condition: Condition,
    /// Tags of the file, besides those that it has.
    #[arg(id = "tag", long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    /// The MIME type; guessed from the name if missing.
    #[arg(long)]
    content_type: Option<String>,
    /// A JSON object per file.
    #[arg(long)]
    json: bool,
}

/// What must hold about the file that is written.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Condition {
    /// Only if its newest version is that one.
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// Only if its content has that etag.
    #[arg(long, value_name = "ETAG")]
    if_etag: Option<String>,
    /// Only if nothing is there.
    #[arg(long)]
    if_absent: bool,
}

impl Condition {
    fn precondition(&self) -> Precondition {
        match (self.if_version, &self.if_etag, self.if_absent) {
            (Some(version), ..) => Precondition::Version(VersionNo(version)),
            (_, Some(etag), _) => Precondition::Etag(etag.clone()),
            (.., true) => Precondition::Absent,
            _ => Precondition::Any,
        }
    }
}

/// `name=value`, each.
///
/// # Errors
/// One is not.
pub(super) fn tags(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty())?;
        Some((name.to_owned(), value.to_owned()))
    };
    let wrong = |text: &String| Failure::usage(format!("--tag {text:?}: a name, =, and a value"));
    texts.iter().map(|text| split(text).ok_or_else(|| wrong(text))).collect()
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let Some((dest, locals)) = args.paths.split_last() else { return Err(Failure::usage("nothing to write")) };
    let tags = tags(&args.tags)?;
    let mut reach = Reach::new(&context);
    let spot = reach.at(dest).await?;
    let dir = directory(&spot, dest, locals.len() > 1).await?;
    let progress = Progress::new("written");
    let (mut total, mut failed) = (Amount::default(), 0);
    for local in locals {
        let is_stdin = local == "-";
        let meta = if is_stdin {
            None
        } else {
            Some(std::fs::metadata(local).map_err(|error| Failure::io(Path::new(local).display(), &error))?)
        };
        let key = match (&dir, name_of(local)) {
            (Some(dir), Some(name)) if !is_stdin => format!("{dir}{name}"),
            (Some(_), _) => return Err(Failure::usage(format!("{}: name the file that it becomes", dest.to_string_lossy()))),
            (None, _) => spot.files.key(&spot.target).await?.as_str().to_owned(),
        };
        let key = Key::new(&key).map_err(|error| Failure::usage(format!("{}: {error}", Path::new(local).display())))?;
        spot.files.room(&key).await?;
        if meta.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            if !args.recursive {
                return Err(Failure::usage(format!("{} is a directory: `pgfiles put -r` writes it", Path::new(local).display())));
            }
            let done = spot.files.import(Path::new(local), &key.as_dir(), &tags, &progress).await?;
            reach.changed(&spot, key.as_dir().as_str());
            total.files += done.written.files;
            total.bytes += done.written.bytes;
            failed += done.failed;
            if args.json {
                output::line(said(&done, progress.seconds()))?;
            }
            continue;
        }
        let attributes = Attributes {
            mode: meta.as_ref().map(|meta| meta.permissions().mode() & 0o7777),
            content_type: args.content_type.clone(),
            tags: tags.clone(),
            ..Attributes::default()
        };
        let size = meta.map(|meta| Amount { files: locals.len() as u64, bytes: meta.len() });
        let sent = std::sync::atomic::AtomicU64::new(0);
        let show = |bytes: u64| {
            let bytes = sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            progress.progress(Amount { files: total.files, bytes }, size);
        };
        let writing = async {
            if is_stdin {
                spot.files.put(&key, &mut tokio::io::stdin(), &attributes, args.condition.precondition(), &show).await
            } else {
                let mut file =
                    tokio::fs::File::open(local).await.map_err(|error| Failure::io(Path::new(local).display(), &error))?;
                spot.files.put(&key, &mut file, &attributes, args.condition.precondition(), &show).await
            }
        };
        let head = tokio::select! {
            written = writing => written.map_err(|failure| failure.while_(crate::files::shown(key.as_str())))?,
            () = stopped(&progress) => return progress.end(total, 0),
        };
        reach.changed(&spot, key.as_str());
        total.files += 1;
        total.bytes += head.meta.size;
        if args.json {
            output::line(written(&key, head.version, head.meta.size, head.meta.etag.as_deref()))?;
        }
    }
    reach.end().await;
    progress.end(total, failed)
}

fn written(key: &Key, version: VersionNo, size: u64, etag: Option<&str>) -> Value {
    json!({"key": key.as_str(), "version": version.0, "size": size, "etag": etag})
}

/// The directory that is written to; `None` where the target is a file's path.
async fn directory(spot: &Spot, dest: &OsStr, many: bool) -> Result<Option<String>> {
    match spot.files.look(&spot.target).await? {
        Some(There::Dir(dir, _)) => Ok(Some(dir.as_str().to_owned())),
        // It need not be there to be written to.
        None if dest.as_bytes().ends_with(b"/") => Ok(Some(spot.files.key(&spot.target).await?.as_dir().as_str().to_owned())),
        _ if many => Err(Failure::not_found(format!("{} is not a directory", spot.target.shown))),
        _ => Ok(None),
    }
}

/// The last component of a local path, as text of a key.
fn name_of(local: &OsStr) -> Option<String> {
    let name = Path::new(local)
        .file_name()
        .map(OsStr::to_owned)
        .or_else(|| Path::new(local).canonicalize().ok()?.file_name().map(OsStr::to_owned));
    name.map(|name| escape(name.as_bytes()).into_owned())
}

/// A target in a directory.
pub(super) fn below(dir: &Target, name: &str) -> Target {
    let slash = |text: &str| if text.is_empty() || text.ends_with('/') { "" } else { "/" };
    Target {
        key: format!("{}{}{name}", dir.key, slash(&dir.key)),
        shown: format!("{}{}{}", dir.shown, slash(&dir.shown), crate::files::shown(name)),
    }
}
