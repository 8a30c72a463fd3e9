//! How an existing table differs from the one that a dataset needs, and the statements that make it
//! fit.
//!
//! Pure. A statement is offered only if it runs and changes no value of the table. If that depends
//! on the rows, a [`Change::Alter`] has queries that find such rows ("hazards"), and `trial` tries
//! the statement on a copy without rows. If no ALTER TABLE can do it, the table is renamed, which
//! always works and keeps its rows, and `migrate` creates a new one.

use jiff::civil::DateTime;

use crate::sink::table::{Index, Kind, Table, TableColumn, quoted};

use super::ddl::{CHAR_BYTES, VARCHAR_CHARS_MAX, definition, sql_type, unique};

mod column;

pub(super) use column::ExistingColumn;
use column::{Fitting, column_misfit, fitting};

/// Most bytes of a row in MySQL, without columns of TEXT types.
const ROW_BYTES_MAX: u64 = 65_535;

/// The columns of a key, each with the number of characters of its prefix. `None` for a whole column.
pub(super) type KeyColumns = Vec<(String, Option<u64>)>;

/// A table as `information_schema` has it.
#[derive(Debug, Default)]
pub(super) struct Existing {
    pub(super) columns: Vec<ExistingColumn>,
    /// The columns of the primary key, in its order.
    pub(super) key: Vec<String>,
    /// The unique keys except the primary one, with their names.
    pub(super) unique: Vec<(String, KeyColumns)>,
    /// Empty for a view.
    pub(super) engine: String,
    pub(super) is_view: bool,
    pub(super) partitioned: bool,
    /// The method of the partitions and what it is applied to. Empty without partitions.
    pub(super) partitions: (String, String),
}

/// The problem of a table, and the change that makes it fit.
#[derive(Debug)]
pub(super) struct Misfit {
    table: String,
    /// The problem, as a part of a sentence.
    pub(super) problem: String,
    pub(super) change: Change,
}

/// The change that makes a table fit.
#[derive(Debug)]
pub(super) enum Change {
    /// One ALTER TABLE.
    Alter {
        /// The clauses of the statement.
        clauses: Vec<String>,
        /// Whether the statement must run in a session with the time zone UTC: a TIMESTAMP becomes
        /// a DATETIME in the time zone of the session.
        in_utc: bool,
        /// Queries that return a row if the statement would fail, or change a value.
        hazards: Vec<String>,
    },
    /// The table is renamed, and `migrate` creates a new one.
    Rename {
        /// The new name. Empty until [`Misfit::renamed_to`] sets it.
        to: String,
    },
}

impl Misfit {
    /// The same misfit with the change that always works: the table is renamed to `to`.
    pub(super) fn renamed_to(self, to: String) -> Self {
        Self {
            change: Change::Rename { to },
            ..self
        }
    }

    /// Whether the table only lacks columns and keys, so that no row of it changes.
    pub(super) fn only_adds(&self) -> bool {
        match &self.change {
            Change::Alter { clauses, .. } => clauses.iter().all(|clause| only_adds(clause)),
            Change::Rename { .. } => false,
        }
    }

    /// The statements, in order. All must run in one session.
    pub(super) fn statements(&self) -> Vec<String> {
        let table = &self.table;
        match &self.change {
            Change::Rename { to } => vec![format!("RENAME TABLE `{table}` TO `{to}`")],
            Change::Alter {
                clauses, in_utc, ..
            } => {
                let alter = format!("ALTER TABLE `{table}` {}", joined(clauses));
                if *in_utc {
                    vec!["SET time_zone = '+00:00'".to_owned(), alter]
                } else {
                    vec![alter]
                }
            }
        }
    }
}

/// The clauses of one ALTER TABLE. That of the partitions is the last, without a comma.
pub(super) fn joined(clauses: &[String]) -> String {
    clauses
        .join(", ")
        .replace(", PARTITION BY ", " PARTITION BY ")
}

/// Whether a clause adds a column or a unique key.
fn only_adds(clause: &str) -> bool {
    clause.starts_with("ADD COLUMN") || clause.starts_with("ADD UNIQUE")
}

/// An ALTER TABLE while its clauses are collected.
struct Alter<'a> {
    table: &'a Table,
    found: &'a Existing,
    mariadb: bool,
    now: DateTime,
    problems: Vec<String>,
    clauses: Vec<String>,
    hazards: Vec<String>,
    in_utc: bool,
    /// Whether no ALTER TABLE can make the table fit.
    hopeless: bool,
}

/// Compares an existing table with the one that is needed. `None` if it fits.
pub(super) fn misfit(
    table: &Table,
    found: &Existing,
    mariadb: bool,
    now: DateTime,
) -> Option<Misfit> {
    let mut alter = Alter {
        table,
        found,
        mariadb,
        now,
        problems: Vec::new(),
        clauses: Vec::new(),
        hazards: Vec::new(),
        // A summary is computed again from the table of its dataset.
        hopeless: table.summary_of.is_some(),
        in_utc: false,
    };
    if found.is_view {
        alter.hopeless("it is a view".to_owned());
    } else {
        alter.engine();
        for needed in &table.columns {
            alter.column(needed);
        }
        alter.key();
        alter.former_unique();
        alter.unique();
        alter.other_columns();
        alter.partitions();
    }
    alter.into_misfit()
}

impl Alter<'_> {
    fn find(&self, name: &str) -> Option<&ExistingColumn> {
        let is_it = |column: &&ExistingColumn| column.name.eq_ignore_ascii_case(name);
        self.found.columns.iter().find(is_it)
    }

    fn wrong(&mut self, problem: String, clause: String) {
        self.problems.push(problem);
        self.clauses.push(clause);
    }

    fn hopeless(&mut self, problem: String) {
        self.problems.push(problem);
        self.hopeless = true;
    }

    /// A query about the rows of the table.
    fn hazard(&mut self, condition: &str) {
        let table = &self.table.name;
        let sql = format!("SELECT 1 FROM `{table}` WHERE {condition} LIMIT 1");
        self.hazards.push(sql);
    }

    fn engine(&mut self) {
        let engine = &self.found.engine;
        if engine.eq_ignore_ascii_case("InnoDB") {
            return;
        }
        let problem = format!("its engine `{engine}` has no transactions");
        let converts = ["MyISAM", "Aria", "MEMORY"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(engine));
        if converts && !self.found.partitioned {
            self.wrong(problem, "ENGINE = InnoDB".to_owned());
        } else {
            self.hopeless(problem);
        }
    }

    fn column(&mut self, needed: &TableColumn) {
        let name = &needed.name;
        let in_key = self.table.key.contains(name);
        let Some(found) = self.find(name) else {
            // Existing rows have no value for the new column.
            let added = TableColumn {
                nullable: true,
                ..needed.clone()
            };
            let clause = format!("ADD COLUMN {}", definition(&added, false, self.mariadb));
            self.wrong(format!("it has no column `{name}`"), clause);
            return;
        };
        if found.generated {
            self.hopeless(format!(
                "column `{name}` is generated by the server, and the dataset fills it"
            ));
            return;
        }
        let in_summary_key = in_key && self.table.summary_of.is_some();
        let unique = self.table.unique.as_ref();
        let in_unique = unique.is_some_and(|index| index.columns.contains(name));
        let Some(problem) = column_misfit(needed, found, in_summary_key || in_unique) else {
            return;
        };
        let problem = format!("column `{name}` {problem}");
        let nullable = !in_key && (needed.nullable || found.nullable);
        let null = if nullable { "NULL" } else { "NOT NULL" };
        let Some(Fitting {
            sql_type,
            hazard,
            in_utc,
        }) = fitting(needed, found, self.mariadb)
        else {
            self.hopeless(problem);
            return;
        };
        let hopeless = self.found.partitioned;
        if found.nullable && !nullable {
            self.hazard(&format!("`{name}` IS NULL"));
        }
        if let Some(hazard) = hazard {
            self.hazard(&hazard);
        }
        self.in_utc |= in_utc;
        self.hopeless |= hopeless;
        let clause = format!("MODIFY COLUMN `{name}` {sql_type} {null}");
        self.wrong(problem, clause);
    }

    fn key(&mut self) {
        let (wanted, key) = (&self.table.key, &self.found.key);
        let same = |a: &String, b: &String| a.eq_ignore_ascii_case(b);
        if key.len() == wanted.len() && key.iter().all(|a| wanted.iter().any(|b| same(a, b))) {
            return;
        }
        // The primary key of a partitioned table must hold the columns that it is partitioned by.
        let required = |name: &String| {
            let is_it = |column: &&TableColumn| same(&column.name, name);
            let column = self.table.columns.iter().find(is_it);
            column.is_some_and(|column| !column.nullable)
        };
        let begins = wanted.len() == 1 && key.first().is_some_and(|first| same(first, &wanted[0]));
        if self.found.partitioned && begins && key.iter().all(required) {
            return;
        }
        let wanted = quoted(wanted.iter().map(String::as_str));
        let is = quoted(key.iter().map(String::as_str));
        let problem = format!("its primary key is ({is}), not ({wanted})");
        let numbers_itself = self
            .found
            .columns
            .iter()
            .any(|column| column.auto_increment && !self.table.key.contains(&column.name));
        let missing = self.table.key.iter().any(|name| self.find(name).is_none());
        if self.found.partitioned || numbers_itself || missing {
            self.hopeless(problem);
            return;
        }
        for name in &self.table.key {
            self.hazard(&format!("`{name}` IS NULL"));
        }
        self.hazard(&format!("1 GROUP BY {wanted} HAVING COUNT(*) > 1"));
        let drop = if key.is_empty() {
            ""
        } else {
            "DROP PRIMARY KEY, "
        };
        self.wrong(problem, format!("{drop}ADD PRIMARY KEY ({wanted})"));
    }

    /// A unique key that was made for an earlier key of the dataset. It would refuse rows that have
    /// another key now.
    fn former_unique(&mut self) {
        let (table, found) = (self.table, self.found);
        for (name, columns) in &found.unique {
            let columns: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
            let serves = (table.unique.as_ref()).is_some_and(|index| index.is_unique_by(&columns));
            if !serves && Index::is_made_for(name, &table.name, &columns) {
                self.wrong(
                    format!("it still has the unique key `{name}` of an earlier `key`"),
                    format!("DROP KEY `{name}`"),
                );
            }
        }
    }

    /// The unique key of the dataset. If rows have the same key, the server refuses the statement and
    /// names the key.
    fn unique(&mut self) {
        let Some(index) = &self.table.unique else {
            return;
        };
        let chars = |name: &str| {
            let mut columns = self.table.columns.iter();
            let column = columns.find(|column| column.name.eq_ignore_ascii_case(name));
            match column.map(|column| column.kind) {
                Some(Kind::Text(chars)) => u64::from(chars),
                _ => 0,
            }
        };
        let serves = |(_, found): &(String, KeyColumns)| {
            let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
            let is_whole = |(name, prefix): &(String, Option<u64>)| {
                prefix.is_none_or(|prefix| prefix >= chars(name))
            };
            index.is_unique_by(&names) && found.iter().all(is_whole)
        };
        if self.found.unique.iter().any(serves) {
            return;
        }
        let is_outside = |column: &TableColumn| {
            self.find(&column.name)
                .is_some_and(|found| found.data_type.ends_with("text"))
        };
        let clause = format!("ADD {}", unique(self.table, index, is_outside));
        let columns = quoted(index.columns.iter().map(String::as_str));
        self.wrong(format!("it has no unique key ({columns})"), clause);
    }

    /// The partitions by time. Existing ones by the same column are taken as they are.
    fn partitions(&mut self) {
        let Some(wanted) = &self.table.partitions else {
            return;
        };
        let (method, of) = &self.found.partitions;
        let is_by_column = of.replace('`', "").eq_ignore_ascii_case(&wanted.column);
        if method == "RANGE COLUMNS" && is_by_column {
            return;
        }
        let column = &wanted.column;
        let problem = if method.is_empty() {
            format!("it is not partitioned by `{column}`")
        } else {
            format!("it is partitioned by {method}({of}), not by RANGE COLUMNS(`{column}`)")
        };
        let clause = wanted.clause(self.now);
        self.wrong(problem, clause);
    }

    /// Columns that no record fills.
    fn other_columns(&mut self) {
        let is_needed = |found: &ExistingColumn| {
            let is_it = |needed: &TableColumn| needed.name.eq_ignore_ascii_case(&found.name);
            self.table.columns.iter().any(is_it)
        };
        let found = self.found.columns.iter();
        let unfilled: Vec<(String, Option<String>)> = found
            .filter(|found| !found.optional && !is_needed(found))
            .map(|found| {
                let problem = format!(
                    "column `{}` is not in the dataset, takes no NULL and has no default",
                    found.name
                );
                let in_key = self.found.key.contains(&found.name);
                let clause = format!("MODIFY COLUMN {}", found.as_optional());
                (
                    problem,
                    (!in_key && !self.found.partitioned).then_some(clause),
                )
            })
            .collect();
        for (problem, clause) in unfilled {
            match clause {
                Some(clause) => self.wrong(problem, clause),
                None => self.hopeless(problem),
            }
        }
    }

    fn into_misfit(self) -> Option<Misfit> {
        if self.problems.is_empty() {
            return None;
        }
        let name = &self.table.name;
        let problem = format!("`{name}`: {}", self.problems.join(", "));
        let misfit = |change| Misfit {
            table: name.clone(),
            problem,
            change,
        };
        if self.hopeless || self.row_bytes() > ROW_BYTES_MAX {
            return Some(misfit(Change::Rename { to: String::new() }));
        }
        let mut hazards = self.hazards;
        if self.clauses.iter().any(|clause| !only_adds(clause)) {
            // The server refuses to change a column of a foreign key.
            hazards.push(format!(
                "SELECT 1 FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT \
                 NULL AND ((TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{name}') OR \
                 (REFERENCED_TABLE_SCHEMA = DATABASE() AND REFERENCED_TABLE_NAME = '{name}')) LIMIT 1"
            ));
        }
        Some(misfit(Change::Alter {
            clauses: self.clauses,
            in_utc: self.in_utc,
            hazards,
        }))
    }

    /// An upper bound on the bytes of a row, if each text is as long as the table or the dataset
    /// allows.
    fn row_bytes(&self) -> u64 {
        let needed = self.table.columns.iter().map(|needed| {
            let found = self.find(&needed.name).filter(|found| found.is_varying());
            let chars = found.map_or(0, |found| found.chars);
            match needed.kind {
                Kind::Text(min) if min <= VARCHAR_CHARS_MAX => {
                    chars.max(min.into()) * u64::from(CHAR_BYTES)
                }
                Kind::Decimal(..) => 32,
                _ => 16,
            }
        });
        let is_other = |found: &&ExistingColumn| {
            !(self.table.columns.iter()).any(|needed| needed.name.eq_ignore_ascii_case(&found.name))
        };
        let others = self.found.columns.iter().filter(is_other);
        let others = others.map(|found| {
            if found.is_varying() {
                found.text_bytes
            } else {
                16
            }
        });
        needed.chain(others).sum()
    }
}

/// The statement that turns columns of MySQL's JSON type into text columns, which store JSON as it
/// was written. `None` if the table has no such column. Existing values stay as MySQL has
/// normalised them.
pub(super) fn exact_json(table: &Table, found: &Existing) -> Option<String> {
    let native = |needed: &TableColumn| {
        let is_it = |column: &&ExistingColumn| column.name.eq_ignore_ascii_case(&needed.name);
        let column = found.columns.iter().find(is_it)?;
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        let kind = sql_type(Kind::Json, false, false);
        (needed.kind == Kind::Json && column.data_type == "json" && !column.indexed)
            .then(|| format!("MODIFY COLUMN `{}` {kind} {null}", column.name))
    };
    let clauses: Vec<String> = table.columns.iter().filter_map(native).collect();
    (!clauses.is_empty()).then(|| format!("ALTER TABLE `{}` {}", table.name, clauses.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::partitions::now;

    fn id(kind: Kind) -> Table {
        let column = |name: &str, kind, nullable| TableColumn {
            name: name.to_owned(),
            kind,
            nullable,
        };
        Table {
            name: "t".to_owned(),
            columns: vec![column("id", Kind::RowId, false), column("c", kind, true)],
            key: vec!["id".to_owned()],
            unique: None,
            indexes: Vec::new(),
            partitions: None,
            summary_of: None,
        }
    }

    fn with(column: ExistingColumn) -> Existing {
        let id = ExistingColumn {
            name: "id".to_owned(),
            data_type: "bigint".to_owned(),
            unsigned: true,
            ..ExistingColumn::default()
        };
        Existing {
            columns: vec![id, column],
            key: vec!["id".to_owned()],
            engine: "InnoDB".to_owned(),
            ..Existing::default()
        }
    }

    /// Conversions of a column `c`, and whether an ALTER TABLE is offered.
    #[test]
    fn only_changes_that_keep_every_value_are_offered() {
        let cases: &[(Kind, &str, &str, bool)] = &[
            (Kind::Integer, "int", "int(11)", true),
            (Kind::Integer, "decimal", "decimal(20,6)", false),
            (Kind::Integer, "varchar", "varchar(20)", false),
            (Kind::Float, "decimal", "decimal(20,6)", false),
            (Kind::Unsigned, "int", "int(11)", true),
            (Kind::Unsigned, "varchar", "varchar(20)", false),
            (Kind::Decimal(12, 4), "decimal", "decimal(10,6)", true),
            (Kind::Decimal(38, 0), "decimal", "decimal(65,30)", false),
            (Kind::Decimal(12, 4), "double", "double", false),
            (Kind::Time, "time", "time", true),
            (Kind::Time, "varchar", "varchar(20)", false),
            (Kind::Day, "datetime", "datetime(6)", false),
            (Kind::Binary, "varbinary", "varbinary(20)", true),
            (Kind::Binary, "varchar", "varchar(20)", false),
            (Kind::Float, "float", "float", false),
            (Kind::Float, "double", "double(10,2)", true),
            (Kind::Boolean, "point", "point", false),
            (Kind::Float, "int", "int(11)", true),
            (Kind::Float, "bigint", "bigint(20)", false),
            (Kind::Text(255), "char", "char(36)", true),
            (Kind::Text(255), "varbinary", "varbinary(36)", false),
            (Kind::Text(255), "timestamp", "timestamp", false),
            (Kind::Timestamp, "timestamp", "timestamp(6)", true),
            (Kind::Timestamp, "varchar", "varchar(30)", false),
            (Kind::Timestamp, "date", "date", true),
            (Kind::Json, "blob", "blob", false),
            (Kind::Json, "varchar", "varchar(255)", true),
            (Kind::Boolean, "bit", "bit(1)", true),
            (Kind::Boolean, "varchar", "varchar(5)", false),
        ];
        for (kind, data_type, column_type, offered) in cases {
            let column = ExistingColumn {
                name: "c".to_owned(),
                data_type: (*data_type).to_owned(),
                column_type: (*column_type).to_owned(),
                nullable: true,
                optional: true,
                ..ExistingColumn::default()
            };
            let misfit = misfit(&id(*kind), &with(column), true, now()).expect(column_type);
            let is_alter = matches!(misfit.change, Change::Alter { .. });
            assert_eq!(
                is_alter, *offered,
                "{kind:?} from {column_type}: {misfit:?}"
            );
        }
    }
}
