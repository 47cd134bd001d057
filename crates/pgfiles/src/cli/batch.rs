//! `pgfiles batch`.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Context;
use super::locate::Route;
use crate::connect;
use crate::control::client;
use crate::control::protocol::{Call, LINE_BYTES_MAX};
use crate::exit::{Exit, Failure, Result};
use crate::output::{self, Terminal};
use crate::service::Request;
use crate::service::batch::{Step, Steps, at_line};

/// Carry out many operations in one transaction: all or nothing. Reads JSON Lines; answers a line per operation.
///
/// {"op":"put","path":"a/b.txt","data":"…"} (or data_base64, or file: a local path), delete, move and copy with "to", mkdir,
/// restore with "version", tag with "tags". Each may carry if_version, if_etag or if_absent. Paths are under the prefix.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles batch changes.jsonl\n  echo '{\"op\":\"put\",\"path\":\"a.txt\",\"data\":\"text\",\"if_absent\":true}' | pgfiles batch"
)]
pub(super) struct Args {
    /// Where to read from; stdin if missing.
    #[arg(value_name = "FILE")]
    from: Option<PathBuf>,
    /// Answer in JSON Lines.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let route = context.route(context.settings.prefix.as_str())?;
    let input = open(&args)?;
    let done = match route {
        Route::Daemon(mount) if mount.prefix == context.settings.prefix.as_str() => {
            let lines = futures_util::stream::iter(steps(input)).map(|step| {
                let (number, step) = step?;
                Ok(json!({"line": number, "step": step}).to_string())
            });
            client::call_with(&mount, &Call::Serve(Request::Batch), lines, &Terminal::default()).await
        }
        _ => directly(&context, input).await,
    };
    match done {
        Ok(answer) => {
            for line in answer.as_array().into_iter().flatten() {
                output::line(if args.json { line.to_string() } else { told(line) })?;
            }
            Ok(Exit::Done)
        }
        Err(failure) => {
            if args.json {
                output::line(json!({"line": failure.line, "error": failure.message, "exit": failure.exit.code()}))?;
            }
            Err(Failure { message: format!("nothing was changed: {}", failure.message), ..failure })
        }
    }
}

use futures_util::StreamExt as _;

async fn directly(context: &Context, input: Box<dyn Read + Send>) -> Result<Value> {
    let direct = connect::open(context).await?;
    let mut all = Steps::default();
    for step in steps(input) {
        let (number, step) = step?;
        all.add(number, &step, &direct.service)?;
    }
    let answer = direct.service.batch(all).await?;
    context.tell(&answer.changed).await;
    Ok(answer.value)
}

fn open(args: &Args) -> Result<Box<dyn Read + Send>> {
    match &args.from {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path);
            Ok(Box::new(file.map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?))
        }
        _ => {
            if std::io::stdin().is_terminal() {
                output::say("reading operations from the terminal, one JSON object per line; end with Ctrl-D");
            }
            Ok(Box::new(std::io::stdin()))
        }
    }
}

/// The steps of an input with their line numbers, contents of files loaded; ends after the first error.
fn steps(input: Box<dyn Read + Send>) -> impl Iterator<Item = Result<(u64, Step)>> + Send {
    let mut input = BufReader::new(input);
    let mut number = 0;
    let mut over = false;
    std::iter::from_fn(move || {
        while !over {
            number += 1;
            let mut line = Vec::new();
            let read = (&mut input).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
            let step = match read {
                Err(error) => Err(Failure::io("cannot read the operations", &error)),
                Ok(0) => return None,
                Ok(_) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(_) => parse(number, &line),
            };
            over = step.is_err();
            return Some(step);
        }
        None
    })
}

fn parse(number: u64, line: &[u8]) -> Result<(u64, Step)> {
    let wrong = |why: String| at_line(number, Failure::usage(why));
    let text = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8: use data_base64 for bytes".into()))?;
    let mut step = Step::parse(text.trim_end()).map_err(wrong)?;
    step.load().map_err(|why| at_line(number, Failure::usage(why)))?;
    Ok((number, step))
}

fn told(line: &Value) -> String {
    let text = |field: &str| line[field].as_str().unwrap_or_default();
    let what = match (line["version"].as_u64(), line["files"].as_u64()) {
        (Some(version), _) => format!("version {version}"),
        (_, Some(files)) => format!("{files} files"),
        _ => "done".into(),
    };
    format!("{} {} {}: {what}", line["line"], text("op"), text("path"))
}
