//! docs/commands.md, docs/settings.md and docs/tables.md list exactly the commands, the settings and
//! the tables of the engine.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use lemonade_task::config::cli::Cli;

use crate::support::Pair;

/// If this variable is set, the pages are written instead of compared.
const BLESS: &str = "LEMONADE_BLESS";

const COMMANDS: &str = "\
# Commands

The commands of `task_runner` with their arguments. This page is generated from the help, and
checked by a test; `LEMONADE_BLESS=1 cargo test --test suite reference` writes it again. The
[settings](settings.md) are options of each command, too.

The manual pages have the same texts: `man task_runner-load`. `task_runner load --help` prints them.
[JSON of the commands](json.md) describes what `--json` prints.
";

const SETTINGS: &str = "\
# Settings

The settings of `task_runner`. This page is generated from the help, and checked by a test;
`LEMONADE_BLESS=1 cargo test --test suite reference` writes it again.

A setting has the same name everywhere: `data_dir` in the settings file is the option `--data-dir`
and the variable `LEMONADE_DATA_DIR`. An option overrides the variable, which overrides the file.
`task_runner config init` writes a file with all settings, and `task_runner config show` prints
those in effect. Of two variables in a line, the first one that is set counts. The second one is
that of the Python program, or of other programs.

The URLs may hold passwords, so they have no option: set them in the environment or in the settings
file. `DATABASE_URL_FILE`, `REDIS_URL_FILE` and `REPLICA_URL_FILE` may name a file that holds the
URL. With `?ca=FILE`, a URL names certificates to trust over TLS ([security](security.md)). A
settings file may also define [datasets](datasets.md).

| in the file | variable | default | meaning |
|---|---|---|---|
| `database_url` | `DATABASE_URL` | SQLite in the data directory | The database: `mysql://user:password@host:3306/vehicles`, or `sqlite:PATH` |
| `redis_url` | `REDIS_URL` | `memory:` | The queue: `redis://host:6379`, or `memory:` |
| `replica_url` | `REPLICA_URL` | `off` | Replicas that must keep up: `mysql://user:password@replica1,replica2/vehicles`, or `off` ([more](backfill.md#spare-the-database)) |
";

/// The pages that say more about a setting.
const MORE: [(&str, &str); 13] = [
    ("http_hosts", "security.md"),
    ("http_actions", "console.md#actions"),
    ("http_token_file", "security.md"),
    ("otlp_url", "otlp.md"),
    ("otlp_headers_file", "otlp.md"),
    ("queue_shards", "deploy.md#a-redis-cluster"),
    ("max_records_per_second", "backfill.md#spare-the-database"),
    ("max_replica_lag", "backfill.md#spare-the-database"),
    ("hard_links", "security.md"),
    ("history_layout", "retention.md#history-by-day"),
    ("history_compression", "retention.md#compressed-history"),
    ("history_max_age", "retention.md#history"),
    ("role", "deploy.md#several-processes"),
];

#[test]
fn the_page_of_commands_is_that_of_the_help() {
    let mut program = Cli::described();
    program.build();
    let mut page = COMMANDS.to_owned();
    for command in program.get_subcommands() {
        describe(command, &mut page);
    }
    page.push_str("\n## Exit codes\n\n");
    let after = program.get_after_help().unwrap().to_string();
    let (_, codes) = after.split_once("Exit codes:\n").unwrap();
    page.push_str(&block(codes));
    is_written("docs/commands.md", &page);
}

#[test]
fn the_page_of_settings_is_that_of_the_help() {
    let mut page = SETTINGS.to_owned();
    let settings = Cli::described();
    for setting in settings.get_arguments().filter(|arg| is_setting(arg)) {
        let help = setting.get_help().unwrap().to_string();
        let (help, variables) = help.split_once(" [").unwrap();
        let variables = variables.strip_suffix(']').unwrap().replace(", ", "`, `");
        // Such as names of hosts: none by default.
        let (meaning, default) = help.split_once(" (default: ").unwrap_or((help, "none)"));
        let default = match default.strip_suffix(')').unwrap() {
            "none" => "none".to_owned(),
            words if words.contains(' ') => words.to_owned(),
            value => format!("`{value}`"),
        };
        let key = match setting.get_id().as_str() {
            "config" => String::new(),
            key => format!("`{key}`"),
        };
        let more = MORE.iter().find(|(name, _)| setting.get_id() == *name);
        let more = more.map_or_else(String::new, |(_, page)| format!(" ([more]({page}))"));
        let meaning = cell(meaning) + &more;
        writeln!(page, "| {key} | `{variables}` | {default} | {meaning} |").unwrap();
    }
    is_written("docs/settings.md", &page);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_tables_has_the_columns_of_the_ledger() {
    let page = include_str!("../../docs/tables.md");
    let mut documented = Vec::new();
    for section in page.split("\n### `").skip(1) {
        let (table, section) = section.split_once('`').unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        for row in rows {
            let (column, row) = row.split_once("` | ").unwrap();
            let (kind, _) = row.split_once(" | ").unwrap();
            documented.push((table, column, kind));
        }
    }
    documented.sort_unstable();
    // SQLite has neither partitions nor deferred indexes.
    let only_mysql = ["ingest_indexes", "ingest_retentions"];
    let row = |of: &[&str]| of.iter().map(|text| Some((*text).to_owned())).collect();
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let expected = documented.iter();
        let (sql, expected): (_, Vec<Vec<_>>) = if name == "memory+mysql" {
            let sql = "SELECT TABLE_NAME, COLUMN_NAME, REGEXP_REPLACE(COLUMN_TYPE, '(int)[(][0-9]+[)]', \
                       '\\\\1') FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND \
                       TABLE_NAME LIKE 'ingest\\_%' ORDER BY TABLE_NAME, COLUMN_NAME";
            (
                sql,
                expected
                    .map(|(table, column, kind)| row(&[table, column, kind]))
                    .collect(),
            )
        } else {
            let sql = "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE \
                       t.type = 'table' AND t.name LIKE 'ingest%' ORDER BY t.name, c.name";
            let expected = expected.filter(|(table, ..)| !only_mysql.contains(table));
            (
                sql,
                expected
                    .map(|(table, column, _)| row(&[table, column]))
                    .collect(),
            )
        };
        assert_eq!(pair.query(sql).await, expected, "{name}");

        let (_, sql) = page.split_once("```sql\n").unwrap();
        let (sql, _) = sql.split_once("```").unwrap();
        pair.expect(0, &["generate", "--files", "1", "--records", "3"]);
        pair.expect(0, &["load"]);
        let found = pair.query(sql.trim_end_matches([';', '\n'])).await;
        let [name, ordinal] = &found[0][..] else {
            panic!("{found:?}");
        };
        assert!(
            name.as_ref()
                .is_some_and(|name| name.starts_with("vehicle_events_")),
            "{found:?}"
        );
        assert_eq!(ordinal.as_deref(), Some("0"));
    }
}

/// The section of a command, and those of its commands.
fn describe(command: &Command, page: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = command.get_bin_name().unwrap();
    let about = command.get_about().unwrap();
    write!(page, "\n## {name}\n\n{about}.\n").unwrap();
    if let Some(text) = command.get_before_help() {
        let text = text.to_string();
        let (examples, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let examples = examples.strip_prefix("Examples:\n").unwrap();
        write!(page, "\n{}", block(examples)).unwrap();
        if !rest.is_empty() {
            writeln!(page, "\n{}", rest.replace("\n  ", "\n\n    ")).unwrap();
        }
    }
    let own = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set() && arg.get_id() != "help";
    let mut rows = String::new();
    for arg in command.get_arguments().filter(own) {
        let mut help = cell(&arg.get_help().unwrap().to_string());
        let values = arg.get_possible_values();
        let values: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            write!(help, " (one of: `{}`)", values.join("`, `")).unwrap();
        }
        let defaults = arg.get_default_values().iter();
        for default in defaults.filter(|_| arg.get_action().takes_values()) {
            write!(help, " (default: `{}`)", default.display()).unwrap();
        }
        writeln!(rows, "| `{}` | {help} |", shown(arg)).unwrap();
    }
    if !rows.is_empty() {
        write!(page, "\n| argument | meaning |\n|---|---|\n{rows}").unwrap();
    }
    for command in command.get_subcommands() {
        describe(command, page);
    }
}

/// The argument as one writes it.
fn shown(arg: &Arg) -> String {
    let text = arg.to_string();
    match arg.get_short() {
        Some(short) => format!("-{short}, {text}"),
        None => text,
    }
}

fn is_setting(arg: &Arg) -> bool {
    arg.get_help_heading() == Some("Settings")
}

/// Examples as a block of code.
fn block(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line)));
    format!("```text\n{}```\n", lines.collect::<String>())
}

/// A text in one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('\n', " ")
}

/// Compares the page with the file, or writes it.
fn is_written(path: &str, page: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os(BLESS).is_some() {
        fs::write(&file, page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    for (code, file) in page.lines().zip(written.lines()) {
        assert_eq!(file, code, "{path} is old: set {BLESS}=1");
    }
    assert_eq!(written, page, "{path} is old: set {BLESS}=1");
}
