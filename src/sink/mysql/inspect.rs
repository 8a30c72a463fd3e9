//! What `doctor` reports of a database: settings of the server, rights of the account, and what a
//! start refuses of the tables. Changes nothing.

use std::collections::BTreeSet;

use crate::dataset::Datasets;
use crate::finding::{Finding, Level};
use crate::sink::KeptIndex;
use crate::sink::triggers::{self, sets_new};

use super::errors::Failure;
use super::session::Session;
use super::views::missing_views;
use super::{indexes, schema, summary};

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
    let mut findings = settings(session).await?;
    let grants: Vec<String> = session.rows("SHOW GRANTS").await?;
    let database = session.rows::<Option<String>>("SELECT DATABASE()").await?;
    let database = database.into_iter().next().flatten().unwrap_or_default();
    let rights = Rights::of(&grants, &database);
    for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
        if !rights.have(right) {
            findings.push(Finding::new(
                Level::Refused,
                format!("the account has no right to {right}"),
                format!("GRANT {right} on the database to it"),
            ));
        }
    }
    let of_ledger = schema::missing_of_ledger(session).await?;
    findings.extend(of_ledger.findings());
    if of_ledger.fault().is_some() {
        // The other checks read these tables.
        return Ok(findings);
    }
    let mut to_migrate = match schema::rights_to_migrate(session).await? {
        Ok(rights) => rights,
        Err(refusal) => {
            // Another release may have changed what the other checks read.
            findings.push(Finding::refused(refusal));
            return Ok(findings);
        }
    };
    if !of_ledger.made_again.is_empty() {
        to_migrate.insert("CREATE");
    }
    for right in to_migrate {
        if !rights.have(right) {
            findings.push(Finding::new(
                Level::Refused,
                format!("the account has no right to {right}, and the ledger has to be migrated"),
                "run `task_runner migrate` once with an account that has this right",
            ));
        }
    }
    findings.extend(dropped_indexes(session).await?);
    findings.extend(changing_triggers(session, datasets).await?);
    findings.extend(refusal(summary::check_zones(session, datasets).await)?);
    let (missing, misfits) = schema::inspect(session, datasets).await?;
    findings.extend(misfits);
    findings.push(created_tables(&missing, &rights));
    let views = missing_views(session, datasets).await?;
    findings.extend(created_views(&views, &rights));
    Ok(findings)
}

/// The finding about tables that do not exist.
fn created_tables(missing: &[String], rights: &Rights) -> Finding {
    let tables = missing.join(", ");
    if missing.is_empty() {
        Finding::ok("the tables of the datasets exist")
    } else if rights.have("CREATE") {
        Finding::ok(format!("the first start creates {tables}"))
    } else {
        Finding::new(
            Level::Refused,
            format!("the account may not create tables, and these do not exist: {tables}"),
            "run `task_runner migrate` once with an account that may create tables",
        )
    }
}

/// The finding about views that do not exist. `None` if all exist.
fn created_views(missing: &[String], rights: &Rights) -> Option<Finding> {
    let views = missing.join(", ");
    if missing.is_empty() {
        return None;
    }
    Some(if rights.have("CREATE VIEW") {
        Finding::ok(format!("the first start creates the view {views}"))
    } else {
        Finding::new(
            Level::Refused,
            format!("the account may not create views, and the view {views} does not exist"),
            "GRANT CREATE VIEW on the database to it, or run `task_runner migrate` once with an \
             account that has this right",
        )
    })
}

/// The settings of the server.
async fn settings(session: &mut Session) -> Result<Vec<Finding>, Failure> {
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
    Ok(findings)
}

/// The finding for a problem that a check of each start has found. `None` if it found none.
fn refusal(checked: Result<(), Failure>) -> Result<Option<Finding>, Failure> {
    match checked {
        Err(failure @ Failure::Found { .. }) => {
            let fault = failure.into_fault("comparing the tables with their datasets");
            Ok(Some(Finding::refused(fault)))
        }
        checked => checked.map(|()| None),
    }
}

/// The indexes that a load has dropped and nobody has built again.
async fn dropped_indexes(session: &mut Session) -> Result<Vec<Finding>, Failure> {
    let mut missing = indexes::kept_indexes(session).await?;
    missing.retain(|index| index.is_missing);
    let finding = |index: &KeptIndex| {
        let dropped_at = &index.dropped_at;
        let what = format!("the index {index} is missing: a load has dropped it at {dropped_at}");
        if index.in_charge {
            Finding::ok(what + " UTC, and a process that runs builds it")
        } else {
            Finding::warn(what + " UTC", "run `task_runner migrate`, which builds it")
        }
    };
    Ok(missing.iter().map(finding).collect())
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

/// The rights of an account on its database, or on a table of it.
struct Rights(BTreeSet<String>);

impl Rights {
    /// The rights by the answer to SHOW GRANTS.
    fn of(grants: &[String], database: &str) -> Self {
        let mut rights = BTreeSet::new();
        for grant in grants {
            let Some((list, object)) = grant
                .strip_prefix("GRANT ")
                .and_then(|grant| grant.split_once(" ON "))
            else {
                continue;
            };
            if !is_of(object, database) {
                continue;
            }
            // A right on columns has their names in parentheses.
            let names = list.split(',').filter_map(|it| it.split('(').next());
            rights.extend(names.map(|name| name.trim().to_uppercase()));
        }
        Self(rights)
    }

    fn have(&self, right: &str) -> bool {
        self.0.contains(right) || self.0.contains("ALL PRIVILEGES")
    }
}

/// Whether what follows ON in a GRANT is all databases, this one, or a table of it.
fn is_of(object: &str, database: &str) -> bool {
    if object.starts_with("*.*") {
        return true;
    }
    // Double quotes with the mode ANSI_QUOTES. Without `sql_quote_show_create`, plain names have none.
    let quote = object.chars().next().filter(|it| "`\"".contains(*it));
    let Some(quote) = quote else {
        let named = object.split_once('.');
        return named.is_some_and(|(pattern, _)| fits(pattern, database));
    };
    let Some((pattern, _)) = object[1..].split_once(&format!("{quote}.")) else {
        return false;
    };
    let pattern = pattern.replace(&format!("{quote}{quote}"), &quote.to_string());
    fits(&pattern, database)
}

/// Whether the name of a database fits a pattern of GRANT: `_` is any character and `%` any text,
/// unless a backslash is before it.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pattern = pattern.chars();
    let Some(first) = pattern.next() else {
        return name.is_empty();
    };
    if first == '%' {
        let mut places = name.char_indices().map(|(at, _)| at).chain([name.len()]);
        return places.any(|at| fits(pattern.as_str(), &name[at..]));
    }
    let wanted = if first == '\\' {
        pattern.next().unwrap_or(first)
    } else {
        first
    };
    let mut name = name.chars();
    let is_same = |met: char| first == '_' || met.eq_ignore_ascii_case(&wanted);
    name.next().is_some_and(is_same) && fits(pattern.as_str(), name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_on_the_database_and_compared_as_whole_words() {
        let rights = |grants: &[&str]| {
            let grants: Vec<String> = grants.iter().map(|&grant| grant.to_owned()).collect();
            Rights::of(&grants, "vehicles_1")
        };
        for grant in [
            "GRANT SELECT, INSERT, CREATE ON `vehicles_1`.* TO `u`@`%`",
            "GRANT CREATE ON *.* TO `u`@`%` WITH GRANT OPTION",
            "GRANT ALL PRIVILEGES ON `vehicles\\_1`.* TO `u`@`%`",
            "GRANT SELECT (`a`, `create`), CREATE ON \"vehicles_1\".\"t\" TO \"u\"@\"%\"",
            "GRANT CREATE ON `vehicles%`.* TO `u`@`%`",
            "GRANT CREATE ON `vehicles__`.* TO `u`@`%`",
        ] {
            assert!(rights(&[grant]).have("CREATE"), "{grant}");
            let is_view_named = grant.contains("ALL");
            assert_eq!(
                rights(&[grant]).have("CREATE VIEW"),
                is_view_named,
                "{grant}"
            );
        }
        for grant in [
            "GRANT SELECT, CREATE VIEW, CREATE ROUTINE ON `vehicles_1`.* TO `u`@`%`",
            "GRANT ALL PRIVILEGES ON `other`.* TO `u`@`%`",
            "GRANT ALL PRIVILEGES ON `vehicles\\_2`.* TO `u`@`%`",
            "GRANT CREATE ON `vehicles`.* TO `u`@`%`",
            "GRANT CREATE ON `vehicles_`.* TO `u`@`%`",
            "GRANT SELECT (`a`, `create`) ON `vehicles_1`.`t` TO `u`@`%`",
            "GRANT EXECUTE ON PROCEDURE `vehicles_1`.`create` TO `u`@`%`",
            "GRANT `create`@`%` TO `u`@`%`",
            "GRANT USAGE ON *.* TO `u`@`%`",
            "REVOKE CREATE ON `vehicles_1`.* FROM `u`@`%`",
        ] {
            assert!(!rights(&[grant]).have("CREATE"), "{grant}");
        }
        let several = rights(&[
            "GRANT USAGE ON *.* TO `u`@`%`",
            "GRANT SELECT ON `vehicles_1`.* TO `u`@`%`",
            "GRANT INSERT (`a`) ON `vehicles_1`.`t` TO `u`@`%`",
        ]);
        assert!(several.have("SELECT") && several.have("INSERT") && !several.have("DELETE"));
    }
}
