//! `queue`: lists the frames between ingest and the workers, or commits them all, for example
//! before a Redis server is shut down.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{INFALLIBLE, KeyValueText, Outcome, STOPPED_BEFORE, UsageError, ending, print};
use crate::broker::{self, BrokerOptions, Queued};
use crate::config::Settings;
use crate::config::cli::QueueCommand;
use crate::fault::Fault;
use crate::runner::Drain;
use crate::status::{grouped, length};

/// Runs the command.
///
/// # Errors
/// A fault of the queue or the database, or a `memory:` queue, which only its own process can
/// reach.
pub(super) async fn execute(
    settings: &Settings,
    command: &QueueCommand,
) -> anyhow::Result<Outcome> {
    if settings.broker_url.starts_with("memory:") {
        return Err(UsageError(
            "the queue is `memory:`, which only the process of the service can reach; \
             `task_runner status` shows its length. Set REDIS_URL to use a queue in Redis"
                .to_owned(),
        )
        .into());
    }
    match command {
        QueueCommand::Peek { limit, json } => peek(settings, *limit, *json).await,
        QueueCommand::Drain { take_over_after } => {
            let default = BrokerOptions::default().dead_after;
            drain(settings, take_over_after.map_or(default, |period| period.0)).await
        }
    }
}

async fn peek(settings: &Settings, limit: usize, json: bool) -> anyhow::Result<Outcome> {
    let options = settings.broker_options();
    let broker = broker::open(&settings.broker_url, &options, &settings.datasets).await?;
    let queued = broker.peek(limit).await?;
    let depth = broker.depth().await?;
    let mut text = String::new();
    if !json && !queued.is_empty() {
        text += "DATASET                FILE    FIRST  RECORDS    BYTES           AGE  ENTRY            STATE\n";
    }
    for entry in &queued {
        if json {
            writeln!(text, "{}", as_json(entry)).expect(INFALLIBLE);
        } else {
            writeln!(text, "{}", list_entry(entry)).expect(INFALLIBLE);
        }
    }
    print(&text)?;
    if depth.frames == 0 && queued.is_empty() {
        eprintln!("the queue is empty");
    } else if depth.frames > queued.len() as u64 {
        eprintln!(
            "showing {} of {} frames; raise --limit to see more",
            grouped(queued.len() as u64),
            grouped(depth.frames)
        );
    }
    Ok(Outcome::Complete)
}

fn list_entry(queued: &Queued) -> String {
    let column = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let (span, bytes) = queued.frame.unzip();
    let state = match &queued.owner {
        None => "waits".to_owned(),
        // Escaped, because any client of Redis can choose this name.
        Some(owner) => format!(
            "with {} for {}, delivered {}",
            owner.consumer.escape_debug(),
            length(owner.held_for.as_secs_f64()),
            match owner.deliveries {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            }
        ),
    };
    format!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>13}  {:<15}  {}{state}",
        queued.dataset,
        column(span.map(|span| span.file_no.into())),
        column(span.map(|span| span.first_ordinal.into())),
        column(span.map(|span| span.records.into())),
        column(bytes),
        length(queued.age.as_secs_f64()),
        queued.entry,
        if span.is_none() { "damaged; " } else { "" },
    )
}

fn as_json(queued: &Queued) -> Value {
    let (span, bytes) = queued.frame.unzip();
    let owner = queued.owner.as_ref();
    json!({
        "dataset": *queued.dataset, "stream": *queued.stream, "entry": queued.entry, "damaged": span.is_none(),
        "file_no": span.map(|span| span.file_no),
        "first_ordinal": span.map(|span| span.first_ordinal),
        "records": span.map(|span| span.records), "bytes": bytes,
        "age_seconds": queued.age.as_secs_f64(),
        "consumer": owner.map(|owner| &owner.consumer),
        "held_seconds": owner.map(|owner| owner.held_for.as_secs_f64()),
        "deliveries": owner.map_or(0, |owner| owner.deliveries)
    })
}

async fn drain(settings: &Settings, take_over_after: Duration) -> anyhow::Result<Outcome> {
    let shutdown = ending::on_signals(settings.drain_timeout)?;
    let opening = Box::pin(async {
        let drain = Drain::open(settings, take_over_after).await?;
        drain.database.migrate(&settings.datasets).await?;
        Ok::<_, Fault>(drain)
    });
    let Some(drain) = shutdown.unless_draining(opening).await? else {
        eprintln!("{STOPPED_BEFORE}");
        return Ok(Outcome::Stopped);
    };
    let began = Instant::now();
    let is_empty = drain.run(&shutdown).await?;
    print_totals(&drain, began.elapsed())?;
    if !is_empty {
        eprintln!(
            "stopped before the queue was empty; nothing is lost, run it again to continue \
             (`task_runner queue peek` shows what is left)"
        );
        return Ok(Outcome::Stopped);
    }
    eprintln!(
        "the queue is empty; the service or `task_runner load` moves the files that are now \
         stored as a whole to history"
    );
    Ok(Outcome::Complete)
}

/// Prints the totals. A frame that was delivered twice counts twice, and its rows count as
/// duplicates the second time. A frame of another ledger counts only as foreign.
fn print_totals(drain: &Drain, took: Duration) -> std::io::Result<()> {
    let progress = &drain.progress;
    let records = progress.records();
    let (rows, duplicates) = progress.rows();
    let (superseded, _) = progress.superseded();
    let mut lines = KeyValueText::default();
    for (name, number) in [
        ("files", progress.take().len() as u64),
        ("frames", progress.frames()),
        ("records", records),
        ("rows", rows),
        (
            "rejects",
            records.saturating_sub(rows + duplicates + superseded),
        ),
        ("duplicates", duplicates),
    ] {
        lines.add(name, grouped(number));
    }
    if progress.foreign() > 0 {
        lines.add("foreign", grouped(progress.foreign()));
    }
    lines.add("seconds", format_args!("{:.2}", took.as_secs_f64()));
    print(&lines.into_text())
}
