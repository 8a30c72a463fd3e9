//! The DDL of a table in MySQL and MariaDB.

use jiff::civil::DateTime;

use crate::sink::table::{Index, Kind, Table, TableColumn, quoted};

/// Most bytes of all VARCHAR columns of a table. MySQL allows 65,535 bytes for a row with all its
/// columns.
const VARCHAR_BYTES_MAX: u64 = 60_000;

/// Longest VARCHAR of utf8mb4, in characters. A longer text is a LONGTEXT.
pub(super) const VARCHAR_CHARS_MAX: u32 = 16_383;

/// Longest text, in characters, that is a VARCHAR in a table whose texts exceed that limit. Longer
/// texts are TEXT columns, which are stored outside of the row.
const VARCHAR_CHARS_SHORT: u32 = 64;

/// Most bytes of a character in utf8mb4.
pub(super) const CHAR_BYTES: u32 = 4;

/// The DDL of a table, with the partitions of this time.
pub(super) fn create(table: &Table, mariadb: bool, now: DateTime) -> String {
    let texts = table.columns.iter().map(|column| match column.kind {
        Kind::Text(chars) if chars <= VARCHAR_CHARS_MAX => chars * CHAR_BYTES,
        _ => 0,
    });
    let wide = texts.map(u64::from).sum::<u64>() > VARCHAR_BYTES_MAX;
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| definition(column, wide, mariadb))
        .collect();
    let is_outside =
        |column: &TableColumn| sql_type(column.kind, wide, mariadb).starts_with("TEXT");
    let primary = format!(
        "PRIMARY KEY ({})",
        quoted(table.key.iter().map(String::as_str))
    );
    let unique = table
        .unique
        .iter()
        .map(|index| unique(table, index, is_outside));
    let keys = table
        .indexes
        .iter()
        .map(|index| key(table, index, is_outside));
    let keys = [primary].into_iter().chain(unique).chain(keys);
    let parts: Vec<String> = columns.into_iter().chain(keys).collect();
    let partitions = table.partitions.as_ref();
    let partitions = partitions.map(|it| format!(" {}", it.clause(now)));
    format!(
        "CREATE TABLE IF NOT EXISTS `{}` ({}) ENGINE = InnoDB DEFAULT {}{}",
        table.name,
        parts.join(", "),
        text(mariadb),
        partitions.unwrap_or_default(),
    )
}

/// The clause for a unique key; see [`key`].
pub(super) fn unique(
    table: &Table,
    index: &Index,
    is_outside: impl Fn(&TableColumn) -> bool,
) -> String {
    format!("UNIQUE {}", key(table, index, is_outside))
}

/// The clause for a secondary index. `is_outside` says whether a column has a TEXT type, of which an
/// index needs the number of characters.
pub(super) fn key(
    table: &Table,
    index: &Index,
    is_outside: impl Fn(&TableColumn) -> bool,
) -> String {
    let part = |name: &String| {
        let column = table.columns.iter().find(|column| column.name == *name);
        match column {
            Some(
                column @ TableColumn {
                    kind: Kind::Text(chars),
                    ..
                },
            ) if is_outside(column) => {
                format!("`{name}`({chars})")
            }
            _ => format!("`{name}`"),
        }
    };
    let parts: Vec<String> = index.columns.iter().map(part).collect();
    format!("KEY `{}` ({})", index.name, parts.join(", "))
}

pub(super) fn definition(column: &TableColumn, wide: bool, mariadb: bool) -> String {
    let null = if column.nullable { "NULL" } else { "NOT NULL" };
    format!(
        "`{}` {} {null}",
        column.name,
        sql_type(column.kind, wide, mariadb)
    )
}

/// The character set and collation of text, which compares byte by byte. `utf8mb4_bin` ignores
/// spaces at the end, so that 'a' and 'a ' would be the same key of a summary. All tables have the
/// same collation, since MySQL cannot join columns of two binary collations.
pub(super) fn text(mariadb: bool) -> String {
    let collation = if mariadb {
        "utf8mb4_nopad_bin"
    } else {
        "utf8mb4_0900_bin"
    };
    format!("CHARACTER SET utf8mb4 COLLATE {collation}")
}

pub(super) fn sql_type(kind: Kind, wide: bool, mariadb: bool) -> String {
    match kind {
        Kind::RowId | Kind::Unsigned => "BIGINT UNSIGNED".to_owned(),
        Kind::Text(chars) if chars > VARCHAR_CHARS_MAX => format!("LONGTEXT {}", text(mariadb)),
        Kind::Text(chars) if wide && chars > VARCHAR_CHARS_SHORT => {
            format!("TEXT {}", text(mariadb))
        }
        Kind::Text(chars) => format!("VARCHAR({chars}) {}", text(mariadb)),
        Kind::Timestamp => "DATETIME(6)".to_owned(),
        Kind::Day => "DATE".to_owned(),
        Kind::Time => "TIME(6)".to_owned(),
        Kind::Integer => "BIGINT".to_owned(),
        Kind::Decimal(precision, scale) => format!("DECIMAL({precision},{scale})"),
        Kind::Binary => "LONGBLOB".to_owned(),
        Kind::Float => "DOUBLE".to_owned(),
        Kind::Boolean => "BOOLEAN".to_owned(),
        // MySQL's JSON type normalises values: numbers lose digits, and duplicate keys are dropped.
        // MariaDB's JSON type is a LONGTEXT with a check.
        Kind::Json if mariadb => "JSON".to_owned(),
        Kind::Json => format!("LONGTEXT {}", text(mariadb)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Datasets;
    use crate::sink::partitions::now;
    use crate::sink::table::tables;

    #[test]
    fn ddl_of_the_built_in_tables() {
        let tables = tables(&Datasets::new(vec![]).unwrap());
        let events = create(&tables[0], true, now());
        assert!(events.starts_with(
            "CREATE TABLE IF NOT EXISTS `vehicle_events` (`id` BIGINT UNSIGNED NOT NULL, \
             `vehicle_id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, \
             `event_time` DATETIME(6) NOT NULL"
        ));
        assert!(events.contains("`_rescued` JSON NULL, PRIMARY KEY (`id`)) ENGINE = InnoDB"));
        assert!(create(&tables[2], false, now()).contains("PRIMARY KEY (`vehicle_id`, `day`)"));
    }

    #[test]
    fn a_table_of_many_long_texts_keeps_them_outside_of_the_row() {
        let column = |at: u32| TableColumn {
            name: format!("c{at}"),
            kind: Kind::Text(255),
            nullable: false,
        };
        let table = Table {
            name: "t".to_owned(),
            columns: (0..80).map(column).collect(),
            key: vec!["id".to_owned()],
            unique: None,
            indexes: vec![Index {
                name: "ix".to_owned(),
                columns: vec!["c0".to_owned()],
            }],
            partitions: None,
            summary_of: None,
        };
        let created = create(&table, true, now());
        assert!(created.contains("`c0` TEXT ") && created.contains("KEY `ix` (`c0`(255))"));
    }
}
