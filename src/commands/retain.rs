//! `retain`: makes partitions ahead and removes those whose rows are no longer kept, as the service
//! does. Or prints what it would do.

use serde_json::{Value, json};

use crate::config::Settings;
use crate::config::cli::RetainArgs;
use crate::fault::Fault;
use crate::sink::{Kept, PARTITIONS_FULL, ROWS_MOVED_MAX};

use super::output::JSON_VERSION;
use super::{Outcome, open_database, print};

/// What stands for a table if the removals of all of them fail.
const REMOVALS: &str = "removals of tables that have `partition_by` no longer";

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: &RetainArgs) -> anyhow::Result<Outcome> {
    let database = open_database(settings).await?;
    database.migrate(&settings.datasets).await?;
    let mut all: Vec<Value> = Vec::new();
    let mut text = String::new();
    // The other tables do not wait for one that fails.
    let mut failed = None;
    for dataset in settings
        .datasets
        .iter()
        .filter(|it| it.partition_by.is_some())
    {
        let kept = match database.keep_partitions(dataset, args.dry_run).await {
            Ok(kept) => kept,
            Err(fault) => {
                text += &describe_failure(&dataset.table, &fault);
                all.push(json!({"table": dataset.table, "error": fault.to_string()}));
                failed.get_or_insert(fault);
                continue;
            }
        };
        text += &describe(&dataset.table, &kept, args.dry_run);
        all.push(report(&dataset.table, &kept));
    }
    if !args.dry_run {
        match database.end_removals(&settings.datasets).await {
            Ok(ended) => {
                for (table, kept) in ended {
                    text += &describe(&table, &kept, false);
                    all.push(report(&table, &kept));
                }
            }
            Err(fault) => {
                text += &describe_failure(REMOVALS, &fault);
                all.push(json!({"table": null, "error": fault.to_string()}));
                failed.get_or_insert(fault);
            }
        }
    }
    if args.json {
        let report = json!({"version": JSON_VERSION, "dry_run": args.dry_run, "tables": all});
        text = format!("{report}\n");
    } else if text.is_empty() {
        text.push_str("no dataset has `partition_by`\n");
    }
    print(&text)?;
    failed.map_or(Ok(Outcome::Complete), |fault| Err(fault.into()))
}

fn describe_failure(what: &str, fault: &Fault) -> String {
    format!("{what}: not done: {fault}\n")
}

fn report(table: &str, kept: &Kept) -> Value {
    let retired: Vec<Value> = kept
        .retired
        .iter()
        .map(|it| json!({"partition": it.name, "rows": it.rows}))
        .collect();
    json!({
        "table": table, "made": kept.made, "retired": retired, "waiting": kept.waiting,
        "rows_in_last": kept.in_last, "is_crowded": kept.is_crowded, "is_full": kept.is_full,
        "elsewhere": kept.elsewhere
    })
}

/// The lines about a table.
fn describe(table: &str, kept: &Kept, dry_run: bool) -> String {
    if kept.elsewhere {
        return format!("{table}: another process keeps the partitions now\n");
    }
    let would = if dry_run { "would be " } else { "" };
    let mut lines = Vec::new();
    for partition in &kept.retired {
        let (name, rows) = (&partition.name, partition.rows);
        lines.push(format!("{rows} rows of partition {name} {would}retired"));
    }
    for name in &kept.waiting {
        lines.push(format!(
            "partition {name} is not retired until its rows are in the summary"
        ));
    }
    if let Some(made) = &kept.made {
        lines.push(format!("partitions {would}made: {made}"));
    }
    if kept.is_full {
        lines.push(PARTITIONS_FULL.to_owned());
    }
    if kept.is_crowded {
        lines.push(format!(
            "no partitions made: the last one has more than {ROWS_MOVED_MAX} rows; divide it with ALTER \
             TABLE … REORGANIZE PARTITION, or correct the times of its rows"
        ));
    } else if kept.in_last > 0 {
        lines.push(format!("{} rows in the last partition", kept.in_last));
    }
    if lines.is_empty() {
        lines.push("nothing to do".to_owned());
    }
    let head = format!("{table}: ");
    lines
        .iter()
        .flat_map(|line| [&head, line.as_str(), "\n"])
        .collect()
}
