//! The commands of the tutorial, run in its order in an empty directory.

use std::path::Path;
use std::process::Command;

/// Before the exit code that a command of the tutorial has, if it is not 0.
const CODE: &str = "# exit code ";

/// The commands of the page: the lines of its blocks of shell.
fn commands(page: &str) -> Vec<&str> {
    let mut is_shell = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            is_shell = line == "```sh";
        } else if is_shell {
            found.push(line);
        }
    }
    found
}

#[test]
fn the_commands_of_the_tutorial_work_as_written() {
    let page = include_str!("../../docs/tutorial.md");
    let commands = commands(page);
    assert!(commands.len() > 10, "{commands:?}");
    let dir = tempfile::tempdir().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_task_runner"))
        .parent()
        .unwrap();
    let path = std::env::var("PATH").unwrap();
    for line in commands {
        let code = line.split_once(CODE).map_or("0", |(_, code)| code);
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-c", line])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", binaries.display()))
            .env("LEMONADE_HTTP_ADDR", "off")
            .output()
            .unwrap();
        let ended = output.status.code().map(|code| code.to_string());
        assert_eq!(ended.as_deref(), Some(code), "{line}: {output:?}");
    }
    let db = rusqlite::Connection::open(dir.path().join("lemonade-data/lemonade.db")).unwrap();
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(count("SELECT COUNT(*) FROM trips"), 3);
    assert_eq!(count("SELECT COUNT(*) FROM ingest_files"), 5);
}
