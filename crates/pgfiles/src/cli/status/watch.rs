//! `status --watch`: what mounts do, from one look to the next.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::one;
use crate::cli::Context;
use crate::config::units;
use crate::exit::{Exit, Failure, Result};
use crate::output;
use crate::registry::Listed;

/// The shortest interval: a look costs a call to each daemon.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Looks again and again, until the mounts are gone or somebody has seen enough.
///
/// # Errors
/// The interval is none; stdout cannot be written to.
pub(super) async fn watch(context: &Context, wanted: Option<&[String]>, interval: &str, as_json: bool) -> Result<Exit> {
    let interval = units::span(interval).filter(|span| *span >= INTERVAL_MIN);
    let interval = interval.ok_or_else(|| Failure::usage("--watch takes a span of 100ms or more, such as 2s"))?;
    let terminal = std::io::stdout().is_terminal() && !as_json;
    let mut before: Option<(Instant, Vec<Value>)> = None;
    loop {
        let listed: Vec<Listed> = context.dirs.list();
        let mut now = Vec::new();
        for listed in listed.iter().filter(|listed| wanted.is_none_or(|all| all.contains(&listed.mount.id))) {
            now.push(one(listed, false).await);
        }
        let at = Instant::now();
        if now.is_empty() {
            output::say("no live mount");
            return Ok(Exit::Done);
        }
        if let Some((then, old)) = &before {
            let seconds = at.duration_since(*then).as_secs_f64();
            let views: Vec<Value> =
                now.iter().filter_map(|new| Some(view(old.iter().find(|old| old["id"] == new["id"])?, new, seconds))).collect();
            show(&views, terminal, as_json)?;
        }
        before = Some((at, now));
        tokio::time::sleep(interval).await;
    }
}

/// What happened between two looks at a mount.
fn view(old: &Value, new: &Value, seconds: f64) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let grown = |at: &dyn Fn(&Value) -> u64| at(new).saturating_sub(at(old));
    let rate = |count: u64| (count as f64 / seconds * 10.0).round() / 10.0;
    let share = |part: &str| {
        let hits = grown(&|status| {
            let cache = &status["cache"][part];
            ["hits", "memory_hits", "disk_hits"].iter().map(|field| number(&cache[*field])).sum()
        });
        let asked = hits + grown(&|status| number(&status["cache"][part]["misses"]));
        (asked > 0).then(|| (hits as f64 / asked as f64 * 1000.0).round() / 1000.0)
    };
    let methods = |status: &Value| status["operations"]["methods"].as_array().cloned().unwrap_or_default();
    let mut operations = Vec::new();
    let (mut sent, mut received) = (0, 0);
    for now in methods(new) {
        let none = Value::Null;
        let before = methods(old);
        let then = before.iter().find(|then| then["method"] == now["method"]).unwrap_or(&none);
        let since = |field: &str| number(&now[field]).saturating_sub(number(&then[field]));
        let (calls, flying) = (since("calls"), number(&now["in_flight"]));
        sent += since("bytes_out");
        received += since("bytes_in");
        if calls > 0 || flying > 0 {
            let mean = since("total_us").checked_div(calls);
            operations.push(json!({
                "method": now["method"], "per_second": rate(calls), "mean_us": mean, "in_flight": flying, "errors": since("errors"),
            }));
        }
    }
    json!({
        "mountpoint": new["mountpoint"], "id": new["id"], "state": new["state"], "seconds": (seconds * 1000.0).round() / 1000.0,
        "round_trips_per_second": rate(grown(&|status| number(&status["operations"]["round_trips"]))),
        "sent_per_second": rate(sent), "received_per_second": rate(received),
        "metadata_hit_rate": share("metadata"), "data_hit_rate": share("data"),
        "unsaved_bytes": number(&new["unsaved"]["bytes"]), "open_files": number(&new["unsaved"]["open_files"]),
        "queued_ops": number(&new["unsaved"]["queued_ops"]), "operations": operations,
    })
}

fn show(views: &[Value], terminal: bool, as_json: bool) -> Result<()> {
    if as_json {
        return views.iter().try_for_each(output::line);
    }
    let mut text = String::new();
    for view in views {
        text.push_str(&lines(view));
    }
    if terminal {
        // Home, each line to its end, and the rest of the screen.
        let redrawn = text.replace('\n', "\x1b[K\n");
        return output::raw(format!("\x1b[H{redrawn}\x1b[J").as_bytes());
    }
    output::raw(text.as_bytes())?;
    std::io::stdout().flush().map_err(|error| Failure::io("cannot write to stdout", &error))
}

/// In columns that fit a terminal of 40.
fn lines(view: &Value) -> String {
    let bytes = |field: &str| units::show_bytes(view[field].as_f64().unwrap_or(0.0) as u64);
    let share = |field: &str| view[field].as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let mut text =
        format!("{} ({})\n", view["mountpoint"].as_str().unwrap_or_default(), view["state"].as_str().unwrap_or_default());
    text.push_str(&format!("  sent {}/s, received {}/s\n", bytes("sent_per_second"), bytes("received_per_second")));
    text.push_str(&format!("  unsaved {}, open {}, queued {}\n", bytes("unsaved_bytes"), view["open_files"], view["queued_ops"]));
    text.push_str(&format!("  hits: names {}, bytes {}\n", share("metadata_hit_rate"), share("data_hit_rate")));
    text.push_str(&format!("  {:<9} {:>8} {:>9} {:>6}\n", "", "per s", "mean", "now"));
    for operation in view["operations"].as_array().into_iter().flatten() {
        let mean = operation["mean_us"].as_u64().map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
        let (method, rate) = (operation["method"].as_str().unwrap_or_default(), operation["per_second"].as_f64().unwrap_or(0.0));
        text.push_str(&format!("  {method:<9} {rate:>8.1} {mean:>9} {:>6}\n", operation["in_flight"]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(calls: u64, us: u64, hits: u64) -> Value {
        json!({
            "id": "m", "mountpoint": "/w", "state": "ok", "unsaved": {"bytes": 5, "open_files": 1, "queued_ops": 0},
            "cache": {"metadata": {"hits": hits, "misses": 10}, "data": {"memory_hits": 0, "disk_hits": 0, "misses": 0}},
            "operations": {"round_trips": calls, "methods": [
                {"method": "commit", "calls": calls, "errors": 0, "in_flight": 2, "total_us": us, "bytes_out": calls * 1000, "bytes_in": 0},
                {"method": "lookup", "calls": 7, "errors": 0, "in_flight": 0, "total_us": 9, "bytes_out": 0, "bytes_in": 0},
            ]},
        })
    }

    #[test]
    fn two_looks_are_rates() {
        let view = view(&look(10, 1_000, 10), &look(30, 41_000, 40), 2.0);
        assert_eq!((&view["round_trips_per_second"], &view["sent_per_second"]), (&json!(10.0), &json!(10_000.0)));
        assert_eq!((&view["metadata_hit_rate"], &view["data_hit_rate"]), (&json!(1.0), &Value::Null));
        let [commit] = view["operations"].as_array().unwrap().as_slice() else { panic!("{view}") };
        assert_eq!((&commit["per_second"], &commit["mean_us"], &commit["in_flight"]), (&json!(10.0), &json!(2_000), &json!(2)));
        let text = lines(&view);
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        let row: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["commit", "10.0", "2.0", "ms", "2"]);
    }
}
