//! `pgfiles stat`.

use std::ffi::OsString;

use pgfiles_store::store::Dir;
use pgfiles_store::{Entry, Kind, VersionNo};

use super::Context;
use super::entry::{self, mode_text, second};
use super::reach::Reach;
use crate::config::units;
use crate::exit::{Exit, Result};
use crate::files::{Node, There};
use crate::output;

/// Show all that is known of files and directories: key, kind, version, size, etag, times, owner, tags, who wrote it.
#[derive(Debug, clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "Examples:\n  pgfiles stat notes.md\n  pgfiles stat --json notes.md | jq -r .etag"
)]
pub(super) struct Args {
    /// Local paths in a mount, paths under the prefix, or `key:` and whole keys.
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// That version of a file; the newest if missing.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// A JSON object per path.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    for (n, path) in args.paths.iter().enumerate() {
        let spot = reach.at(path).await?;
        let there = match args.version {
            Some(version) => There::File(Box::new(spot.files.version(&spot.target, Some(VersionNo(version))).await?)),
            None => spot.files.find(&spot.target).await?,
        };
        let path = match &there {
            There::File(head) => head.key.as_str().to_owned(),
            There::Dir(dir, _) => dir.as_str().trim_end_matches('/').to_owned(),
        };
        let entry = match there {
            There::File(head) => Entry::File(*head),
            There::Dir(_, marker) => Entry::Dir(Dir { marker: marker.map(|marker| *marker), mtime: None }),
        };
        let node = Node { path, entry };
        if args.json {
            output::line(entry::json(&node))?;
            continue;
        }
        if n > 0 {
            output::line("")?;
        }
        output::table(&rows(&node))?;
    }
    Ok(Exit::Done)
}

fn rows(node: &Node) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: Option<String>| rows.extend(value.map(|value| vec![name.to_owned(), value]));
    let kind = entry::kind(node);
    row("key", Some(crate::files::shown(&node.path)));
    row("kind", Some(kind.as_str().to_owned()));
    let Some(head) = node.head() else {
        row("marker", Some("none: it is there because of what is in it".into()));
        return rows;
    };
    let meta = &head.meta;
    let is_file = kind == Kind::File;
    row("version", (kind != Kind::Dir).then(|| head.version.to_string()));
    row("size", is_file.then(|| format!("{} bytes ({})", meta.size, units::show_bytes(meta.size))));
    row("stored", meta.allocated.map(|stored| format!("{stored} bytes: the rest is holes")));
    row("type", meta.content_type.clone());
    row("etag", meta.etag.clone());
    row("target", meta.target.as_deref().map(crate::files::shown));
    row("mode", meta.mode.map(|mode| format!("{mode:04o} {}", mode_text(kind, mode))));
    row("owner", meta.uid.map(|uid| format!("{uid}:{}", meta.gid.unwrap_or(0))));
    row("names", meta.nlink.map(|names| names.to_string()));
    row("modified", meta.mtime.map(second));
    row("saved", meta.created_at.map(second));
    row("by", meta.by.as_ref().map(ToString::to_string));
    for (name, value) in &meta.tags {
        row("tag", Some(format!("{name}={value}")));
    }
    for name in meta.xattrs.keys() {
        row("xattr", Some(crate::files::shown(name)));
    }
    row("damaged", meta.fault.clone());
    rows
}
