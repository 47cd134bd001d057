//! `pgfiles ls`.

use std::ffi::OsString;

use futures_util::{StreamExt as _, stream};
use pgfiles_store::Head;

use super::Context;
use super::entry::Form;
use super::reach::{Reach, Spot};
use crate::exit::{Exit, Failure, Result};
use crate::files::{Node, There};
use crate::service::versions;

/// Files whose versions are asked for at a time.
const AT_ONCE: usize = 8;

/// List a directory: its names, or with -R everything below; -l adds mode, version, size and time.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles ls -l reports\n  pgfiles ls -R --json | jq -r .path\n  pgfiles ls --deleted reports"
)]
pub(super) struct Args {
    /// A local path in a mount, a path under the prefix, or `key:` and a whole key. The prefix itself if missing.
    paths: Vec<OsString>,
    /// Mode, version, size, time and name, in columns.
    #[arg(short, long)]
    long: bool,
    /// Everything below, by path.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Every version of each file, newest first.
    #[arg(long, conflicts_with = "deleted")]
    versions: bool,
    /// What is deleted, instead of what is there.
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    let paths = if args.paths.is_empty() { vec![OsString::from(".")] } else { args.paths.clone() };
    for path in &paths {
        let spot = reach.at(path).await?;
        if args.deleted {
            deleted(&spot, &args).await?;
        } else {
            list(&spot, &args).await?;
        }
    }
    Ok(Exit::Done)
}

async fn list(spot: &Spot, args: &Args) -> Result<()> {
    let files = &spot.files;
    let dir = match files.find(&spot.target).await? {
        There::Dir(dir, _) => dir,
        There::File(head) => {
            let node = Node { path: head.key.component().to_owned(), entry: pgfiles_store::Entry::File(*head) };
            return if args.versions { all_versions(spot, vec![node], args).await } else { args.form.print(&node, args.long) };
        }
    };
    let mut kept = Vec::new();
    let each = |node: Node| {
        if args.versions {
            kept.push(node);
            return Ok(());
        }
        args.form.print(&node, args.long)
    };
    if args.recursive {
        files.tree(&dir, each).await?
    } else {
        files.names(&dir, each).await?
    }
    all_versions(spot, kept, args).await
}

async fn all_versions(spot: &Spot, nodes: Vec<Node>, args: &Args) -> Result<()> {
    let store = &spot.files.store;
    let heads = nodes.iter().filter(|node| !node.is_dir()).filter_map(|node| Some((node.path.as_str(), node.head()?)));
    let mut all = stream::iter(heads)
        .map(|(path, head)| async move {
            let versions = versions::of_key(&**store, &head.key, u64::MAX).await?;
            Ok::<(&str, Vec<Head>), Failure>((path, versions))
        })
        .buffered(AT_ONCE);
    while let Some(found) = all.next().await {
        let (path, versions) = found?;
        versions.iter().try_for_each(|head| args.form.print_version(path, head))?;
    }
    Ok(())
}

async fn deleted(spot: &Spot, args: &Args) -> Result<()> {
    let files = &spot.files;
    // It may be deleted itself.
    let dir = match files.look(&spot.target).await? {
        Some(There::Dir(dir, _)) => dir,
        Some(There::File(_)) => {
            return Err(Failure::usage(format!("{} is there: only directories are searched", spot.target.shown)));
        }
        None => files.key(&spot.target).await?.as_dir(),
    };
    for head in files.deleted(&dir).await? {
        let path = dir.strip(&head.key).unwrap_or_default();
        if args.recursive || !path.contains('/') {
            args.form.print_version(path, &head)?;
        }
    }
    Ok(())
}
