//! The indexes of a table, and its unique key.

use std::collections::BTreeMap;

use rusqlite::Transaction;

use crate::sink::table::{Index, Table, quoted};

use super::errors::Failure;

/// The statements that create the unique key and the indexes of a table.
pub(super) fn statements(table: &Table) -> Vec<String> {
    let unique = table.unique.iter().map(|index| create_unique(table, index));
    let indexes = table.indexes.iter().map(|index| create_index(table, index));
    unique.chain(indexes).collect()
}

pub(super) fn create_index(table: &Table, index: &Index) -> String {
    create("INDEX", table, index)
}

fn create_unique(table: &Table, index: &Index) -> String {
    create("UNIQUE INDEX", table, index)
}

fn create(what: &str, table: &Table, index: &Index) -> String {
    let columns = quoted(index.columns.iter().map(String::as_str));
    format!(
        "CREATE {what} IF NOT EXISTS `{}` ON `{}` ({columns})",
        index.name, table.name
    )
}

/// Adds the unique key that a table needs and lacks.
pub(super) fn add_unique(db: &Transaction<'_>, table: &Table) -> Result<(), Failure> {
    match &table.unique {
        Some(index) if !has_unique(db, table, index)? => {
            Ok(db.execute_batch(&create_unique(table, index))?)
        }
        _ => Ok(()),
    }
}

/// Checks that a table has the unique key that it needs, and none of an earlier `key` of its dataset,
/// which would refuse rows that have another key now.
pub(super) fn check_unique(db: &Transaction<'_>, table: &Table) -> Result<(), Failure> {
    for (name, (columns, _)) in unique_indexes(db, table)? {
        let serves = (table.unique.as_ref()).is_some_and(|index| index.is_unique_by(&columns));
        if !serves && Index::is_made_for(&name, &table.name, &columns) {
            return Err(Failure::Found {
                next_step: format!("run DROP INDEX `{name}`, and then `task_runner migrate --add`"),
                problem: format!(
                    "table `{}` does not fit its dataset: it still has the unique key `{name}` of an \
                     earlier `key`",
                    table.name
                ),
            });
        }
    }
    let Some(index) = &table.unique else {
        return Ok(());
    };
    if has_unique(db, table, index)? {
        return Ok(());
    }
    let columns = quoted(index.columns.iter().map(String::as_str));
    Err(Failure::Found {
        next_step: format!(
            "run `task_runner migrate --add`, or correct it with {}",
            create_unique(table, index)
        ),
        problem: format!(
            "table `{}` does not fit its dataset: it has no unique key ({columns})",
            table.name
        ),
    })
}

/// Whether a table has a unique key over these columns that compares them byte by byte.
fn has_unique(db: &Transaction<'_>, table: &Table, index: &Index) -> Result<bool, Failure> {
    let found = unique_indexes(db, table)?;
    let mut found = found.values();
    Ok(found.any(|(columns, is_exact)| *is_exact && index.is_unique_by(columns)))
}

/// The unique indexes of a table by their names: their columns, and whether they compare them byte by
/// byte.
fn unique_indexes(
    db: &Transaction<'_>,
    table: &Table,
) -> Result<BTreeMap<String, (Vec<String>, bool)>, Failure> {
    let mut find = db.prepare(
        "SELECT l.name, COALESCE(x.name, ''), x.coll FROM pragma_index_list(?) l JOIN \
         pragma_index_xinfo(l.name) x WHERE l.\"unique\" = 1 AND l.partial = 0 AND x.key = 1 ORDER BY \
         l.name, x.seqno",
    )?;
    let mut found: BTreeMap<String, (Vec<String>, bool)> = BTreeMap::new();
    let mut rows = find.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let (columns, is_exact) = found.entry(row.get(0)?).or_insert((Vec::new(), true));
        columns.push(row.get(1)?);
        *is_exact &= row.get::<_, String>(2)? == "BINARY";
    }
    Ok(found)
}
