//! The settings of the server that matter to the engine, for `doctor`.

use crate::dataset::Datasets;
use crate::finding::Finding;
use crate::sink::KeptIndex;
use crate::sink::lost::Missing;
use crate::sink::triggers::{self, sets_new};

use super::errors::Failure;
use super::indexes;
use super::schema;
use super::session::Session;
use super::views::missing_views;

/// Smallest `max_allowed_packet` for statements of full size. With less, statements are smaller.
const PACKET_BYTES_GOOD: u64 = 4 << 20;

/// Largest difference of the clocks of host and database, in seconds. With a larger one,
/// `settled_at` and other times of the ledger cannot be compared with the log.
const CLOCK_SECONDS_MAX: f64 = 5.0;

/// See [`Schema::inspect`](crate::sink::Schema::inspect).
pub(super) async fn inspect(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<Finding>, Failure> {
    let version: String = session.one("SELECT VERSION()").await?;
    let mut findings = vec![Finding::ok(format!("the database is {version}"))];

    let flush: u64 = session
        .one("SELECT @@innodb_flush_log_at_trx_commit")
        .await?;
    findings.push(Finding::expect(
        flush == 1,
        format!("innodb_flush_log_at_trx_commit is {flush}"),
        "set it to 1: with less, a power cut undoes commits",
    ));
    let packet: u64 = session.one("SELECT @@max_allowed_packet").await?;
    findings.push(Finding::expect(
        packet >= PACKET_BYTES_GOOD,
        format!("max_allowed_packet is {packet} bytes"),
        "set it to 16M or more: smaller statements load more slowly, and large records are refused",
    ));
    let now: f64 = session
        .one("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) AS DOUBLE)")
        .await?;
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let apart = (now - ours.unwrap_or_default().as_secs_f64()).abs();
    findings.push(Finding::expect(
        apart <= CLOCK_SECONDS_MAX,
        format!("the clocks of this host and the database are {apart:.1} s apart"),
        "run an NTP client on both",
    ));
    if !session.server.mariadb {
        let local: u64 = session.one("SELECT @@local_infile").await?;
        findings.push(Finding::expect(
            local == 1,
            format!("local_infile is {local}"),
            "set it to 1 on MySQL for faster loads (LOAD DATA LOCAL); INSERT is used without it",
        ));
    }
    let galera = "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME = \
                  'WSREP_ON'";
    if session.server.mariadb && session.rows::<String>(galera).await? == ["ON"] {
        let log: u64 = session.one("SELECT @@log_bin").await?;
        findings.push(Finding::expect(
            log == 1,
            format!("log_bin is {log} on a node of a Galera cluster"),
            "set it to ON: without it a refused row can make the other nodes leave the cluster",
        ));
    }
    let grants: Vec<String> = session.rows("SHOW GRANTS").await?;
    let all = grants.join("; ").to_uppercase();
    let may = |right: &str| all.contains(right) || all.contains("ALL PRIVILEGES");
    for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
        if !may(right) {
            findings.push(Finding::fail(
                format!("the account has no right to {right}"),
                format!("GRANT {right} on the database to it"),
            ));
        }
    }
    let of_ledger = schema::missing_of_ledger(session).await?;
    findings.extend(of_ledger.findings());
    if of_ledger != Missing::default() {
        // The other checks read these tables.
        return Ok(findings);
    }
    if let Some(refusal) = schema::refusal_of_ledger(session).await? {
        // Another release may have changed what the other checks read.
        findings.push(Finding::refused(refusal));
        return Ok(findings);
    }
    let mut missing = indexes::kept_indexes(session).await?;
    missing.retain(|index| index.is_missing);
    for index in missing {
        let KeptIndex { dropped_at, .. } = &index;
        let what = format!("the index {index} is missing: a load has dropped it at {dropped_at}");
        findings.push(if index.in_charge {
            Finding::ok(what + " UTC, and a process that runs builds it")
        } else {
            Finding::warn(what + " UTC", "run `task_runner migrate`, which builds it")
        });
    }
    findings.extend(changing_triggers(session, datasets).await?);
    let (missing, misfits) = schema::inspect(session, datasets).await?;
    findings.extend(misfits);
    findings.push(match (may("CREATE"), missing.join(", ")) {
        (_, missing) if missing.is_empty() => Finding::ok("the tables of the datasets exist"),
        (true, missing) => Finding::ok(format!("the first start creates {missing}")),
        (false, missing) => Finding::fail(
            format!("the account may not create tables, and {missing} do not exist"),
            "run `task_runner migrate` once with an account that may create tables",
        ),
    });
    let views = missing_views(session, datasets).await?.join(", ");
    if !views.is_empty() {
        findings.push(if may("CREATE VIEW") {
            Finding::ok(format!("the first start creates the view {views}"))
        } else {
            Finding::fail(
                format!("the account may not create views, and the view {views} does not exist"),
                "GRANT CREATE VIEW on the database to it, or run `task_runner migrate` once with an \
                 account that has this right",
            )
        });
    }
    Ok(findings)
}

/// The triggers that change the values of rows before they are stored.
async fn changing_triggers(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<Finding>, Failure> {
    let sql = "SELECT TRIGGER_NAME, EVENT_OBJECT_TABLE, ACTION_STATEMENT FROM \
               information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND ACTION_TIMING = \
               'BEFORE' AND EVENT_MANIPULATION = 'INSERT' ORDER BY TRIGGER_NAME";
    let mut found = session.rows::<(String, String, String)>(sql).await?;
    found.retain(|(_, table, statement)| {
        let is_of_dataset = |of: &str| of.eq_ignore_ascii_case(table);
        datasets.iter().any(|dataset| is_of_dataset(&dataset.table)) && sets_new(statement)
    });
    let finding = |(name, table, _): &(String, String, String)| triggers::finding(name, table);
    Ok(found.iter().map(finding).collect())
}
