//! `pgfiles find`.

use std::ffi::OsString;

use pgfiles_store::clock::{Clock as _, SystemClock};

use super::Context;
use super::entry::Form;
use super::reach::Reach;
use crate::exit::{Exit, Failure, Result};
use crate::files::{Filter, Node, There};

/// Find files below a directory by name, path, kind, size, time, tag and content type; all that is given must hold.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles find --name '*.csv' --size +1MB\n  pgfiles find results --newer 2h --tag run=17 -l\n  pgfiles find -0 --type f --path 'logs/**/*.gz' | xargs -0 pgfiles rm"
)]
pub(super) struct Args {
    /// Where: a local path in a mount, a path under the prefix, or `key:` and a whole key. The prefix itself if missing.
    path: Option<OsString>,
    /// The last component: a pattern with *, ?, [ ] and { }.
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// The path below the directory: * stays within a component, ** does not.
    #[arg(long = "path", value_name = "PATTERN")]
    pattern: Option<String>,
    /// f, d, l, p, s, c or b, as `find` has them.
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Over (+1MB), under (-64KiB) or exactly so many bytes.
    #[arg(long, allow_hyphen_values = true)]
    size: Option<String>,
    /// Changed since a time (2026-01-31T12:00:00Z, 2026-01-31) or within a span (2h, 7d).
    #[arg(long, value_name = "TIME")]
    newer: Option<String>,
    /// Not changed since.
    #[arg(long, value_name = "TIME")]
    older: Option<String>,
    /// With a tag: NAME, or NAME=VALUE.
    #[arg(id = "tag", long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Of a content type: a pattern such as text/*.
    #[arg(long, value_name = "PATTERN")]
    content_type: Option<String>,
    /// Mode, version, size, time and path, in columns.
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    form: Form,
}

impl Args {
    fn filter(&self) -> Result<Filter> {
        let mut filter = Filter::default();
        let now = SystemClock.now();
        let given = |text: &Option<String>, set: &mut dyn FnMut(&str) -> Result<()>| text.as_deref().map_or(Ok(()), set);
        given(&self.name, &mut |text| filter.name(text))?;
        given(&self.pattern, &mut |text| filter.path(text))?;
        given(&self.kind, &mut |text| filter.kind(text))?;
        given(&self.size, &mut |text| filter.size(text))?;
        given(&self.newer, &mut |text| filter.newer(text, now))?;
        given(&self.older, &mut |text| filter.older(text, now))?;
        given(&self.content_type, &mut |text| filter.content_type(text))?;
        self.tags.iter().for_each(|text| filter.tag(text));
        Ok(filter)
    }
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let filter = args.filter()?;
    let mut reach = Reach::new(&context);
    let spot = reach.at_or_prefix(args.path.as_deref()).await?;
    let There::Dir(dir, _) = spot.files.find(&spot.target).await? else {
        return Err(Failure::usage(format!("{} is not a directory", spot.target.shown)));
    };
    // Paths as they can be given to another command: from where the search began.
    let above = args.path.as_ref().map(|path| path.to_string_lossy().trim_end_matches('/').to_owned());
    let above = above.filter(|above| above != "." && !above.is_empty());
    let each = |node: Node| {
        if !filter.matches(&node) {
            return Ok(());
        }
        let path = above.as_ref().map_or_else(|| node.path.clone(), |above| format!("{above}/{}", node.path));
        args.form.print(&Node { path, ..node }, args.long)
    };
    spot.files.tree(&dir, each).await?;
    Ok(Exit::Done)
}
