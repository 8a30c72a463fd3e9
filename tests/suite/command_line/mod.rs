//! The command line as a user sees it: the real binary in an empty directory, with an empty
//! environment.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

mod doctor;
mod json;
mod messages;
mod settings;

/// A directory in which the binary runs.
struct Shell {
    dir: TempDir,
}

/// The result of a run.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_task_runner"))
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run {
            code: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// An address where no server listens, so that no other service of the machine answers.
const NO_HTTP: (&str, &str) = ("LEMONADE_HTTP_ADDR", "off");

#[test]
fn help_begins_with_examples_and_ends_with_exit_codes() {
    let run = Shell::new().run(&["--help"]);
    assert_eq!(run.code, 0);
    assert!(
        run.stdout.starts_with("Examples:\n  task_runner demo"),
        "{}",
        run.stdout
    );
    let codes = run.stdout.find("Exit codes:").unwrap();
    assert!(codes > run.stdout.find("--workers").unwrap());
    let words = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("[LEMONADE_HISTORY, HISTORY_PATH]"),
        "{}",
        run.stdout
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn the_version_is_that_of_the_package() {
    let run = Shell::new().run(&["--version"]);
    assert_eq!(
        (run.code, &*run.stdout),
        (0, concat!("task_runner ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn a_wrong_command_line_exits_with_64_and_suggests_a_right_one() {
    let shell = Shell::new();
    for (arguments, hint) in [
        (&["laod"][..], "load"),
        (&["load", "--ordre", "name"], "--order"),
        (&["--workers", "none"], "--workers"),
        (&["check"], "<PATH>"),
    ] {
        let run = shell.run(arguments);
        assert_eq!(run.code, 64, "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(hint), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_missing_path_exits_with_66() {
    let run = Shell::new().run(&["check", "nowhere"]);
    assert_eq!(run.code, 66, "{run:?}");
    assert!(run.stderr.contains("nowhere"), "{}", run.stderr);
}

#[test]
fn a_database_that_does_not_answer_exits_with_69_and_is_named() {
    // The port is bound, but no program listens: a connection is refused, and no other program can
    // use the port.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let url = format!("mysql://root:secret@127.0.0.1:{port}/vehicles");
    let shell = Shell::new();
    for command in ["status", "migrate", "summary"] {
        let run = shell.run_with(&[command], &[("DATABASE_URL", &url), NO_HTTP]);
        assert_eq!(run.code, 69, "{command}: {run:?}");
        assert!(
            run.stderr.contains(&port.to_string()),
            "{command}: {}",
            run.stderr
        );
        assert!(!run.stderr.contains("secret"), "{command}: {}", run.stderr);
    }
}

#[test]
fn generate_is_repeatable_by_seed_and_overwrites_nothing() {
    let shell = Shell::new();
    let generate = |dir: &str, seed: &str| {
        shell.run(&[
            "generate",
            "--dir",
            dir,
            "--files",
            "3",
            "--records",
            "50",
            "--seed",
            seed,
        ])
    };
    let files = |dir: &str| {
        let mut files: Vec<_> = fs::read_dir(shell.path().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert_eq!(generate("a", "7").code, 0);
    assert_eq!(generate("b", "7").code, 0);
    assert_eq!(generate("c", "8").code, 0);
    assert_eq!(files("a").len(), 3);
    assert_eq!(files("a"), files("b"));
    assert_ne!(files("a")[0].1, files("c")[0].1);

    let before = files("a");
    let again = generate("a", "7");
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again.stderr.contains("another --seed or --dir"),
        "{}",
        again.stderr
    );
    assert_eq!(files("a"), before);
}

#[test]
fn generate_fills_inbound_unless_a_directory_is_given() {
    let shell = Shell::new();
    let run = shell.run(&[
        "generate",
        "--files",
        "1",
        "--records",
        "2",
        "--compress",
        "gzip",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    let inbound = shell.path().join("lemonade-data/inbound");
    let names: Vec<_> = fs::read_dir(inbound)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["vehicle_events_20220605_1_000000.json.gz"]);
}

#[test]
fn a_dry_run_says_what_a_load_takes() {
    let shell = Shell::new();
    let made = |dir: &str, seed: &str| {
        let small = ["--files", "1", "--records", "2", "--seed", seed];
        let run = shell.run(&[&["generate", "--dir", dir], &small[..]].concat());
        assert_eq!(run.code, 0, "{run:?}");
    };
    let would = |arguments: &[&str]| {
        let run = shell.run(&[&["load", "--dry-run"], arguments].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let last = run.stdout.lines().next_back().unwrap();
        last.split(" would").next().unwrap().to_owned()
    };
    made("lemonade-data/inbound", "1");
    made("lemonade-data/inbound/below", "2");
    made("lemonade-data/work", "3");
    made("archive/a", "4");
    assert_eq!(would(&[]), "2 files");
    assert_eq!(would(&["archive"]), "1 files");
    // If an archive contains the engine's directories, they are not part of it.
    assert_eq!(would(&["."]), "1 files");
    let stranger = shell.run(&["load", "--dry-run", "--dataset", "trips"]);
    assert_eq!(stranger.code, 64, "{stranger:?}");
    assert!(
        stranger.stderr.contains("known are vehicle_events, "),
        "{stranger:?}"
    );

    // The first load also takes what a former release has left in work.
    for (arguments, files) in [(&["load", "."][..], 2), (&["load"], 1)] {
        let run = shell.run(arguments);
        let counted = format!("files        {files}\n");
        assert!(run.stdout.starts_with(&counted), "{run:?}");
        // Now it also contains a database, which is not part of the archive.
        assert_eq!(would(&["."]), "1 files");
    }
}

#[test]
fn status_without_anything_says_what_to_do_next_and_leaves_nothing_behind() {
    let shell = Shell::new();
    let run = shell.run_with(&["status"], &[NO_HTTP]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stdout.starts_with("engine    not running\n"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("next      "), "{}", run.stdout);
    assert!(run.stdout.contains("task_runner demo"), "{}", run.stdout);
    assert_eq!(fs::read_dir(shell.path()).unwrap().count(), 0);
}

#[test]
fn status_as_json_is_one_object() {
    let shell = Shell::new();
    shell.run(&["generate", "--files", "2", "--records", "1"]);
    let run = shell.run_with(&["status", "--json"], &[NO_HTTP]);
    let status: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(status["running"], false);
    assert_eq!(status["files"]["inbound"], 2);
    assert_eq!(status["database"], "sqlite:./lemonade-data/lemonade.db");
}

#[test]
fn check_counts_what_generate_made_bad() {
    let shell = Shell::new();
    let made = shell.run(&[
        "generate",
        "--dir",
        "in",
        "--records",
        "500",
        "--bad",
        "0.1",
    ]);
    let bad = made
        .stdout
        .split('(')
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let run = shell.run(&["check", "in", "--json"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    let sum: serde_json::Value =
        serde_json::from_str(run.stdout.lines().next_back().unwrap()).unwrap();
    assert_eq!(sum["rejects"].to_string(), bad);
    assert_eq!(
        (&sum["files"], &sum["records"]),
        (&10.into(), &5_000.into())
    );

    shell.run(&["generate", "--dir", "good", "--records", "500"]);
    assert_eq!(shell.run(&["check", "good"]).code, 0);
    shell.write("stranger.json", "[]");
    let stranger = shell.run(&["check", "stranger.json"]);
    assert_eq!(stranger.code, 2);
    assert!(
        stranger.stdout.contains("no dataset matches"),
        "{}",
        stranger.stdout
    );
    assert_eq!(shell.run(&["check", "good", "--dataset", "trips"]).code, 64);
}

#[test]
fn migrate_prints_the_statements_that_it_would_run() {
    let shell = Shell::new();
    let printed = shell.run(&["migrate", "--print"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    for table in [
        "ingest_files",
        "ingest_rejects",
        "vehicle_events",
        "daily_summary",
    ] {
        assert!(printed.stdout.contains(table), "{}", printed.stdout);
    }
    // The printed statements create the schema.
    let path = shell.path().join("by_hand.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch(&printed.stdout).unwrap();
    drop(database);
    let url = format!("sqlite:{}", path.display());
    let migrated = shell.run_with(&["migrate"], &[("DATABASE_URL", &url)]);
    assert_eq!(migrated.code, 0, "{}", migrated.stderr);
}

#[test]
fn the_demo_needs_nothing_and_ends_with_figures_of_the_database() {
    let shell = Shell::new();
    let dir = shell.path().join("demo");
    let args = ["demo", "--files", "3", "--records", "1000", "--dir"];
    let demo = shell.run(&[&args[..], &[dir.to_str().unwrap()]].concat());
    assert_eq!(demo.code, 0, "{}", demo.stderr);
    let database = rusqlite::Connection::open(dir.join("lemonade.db")).unwrap();
    for table in ["vehicle_events", "vehicle_status", "ingest_rejects"] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let rows: u64 = database.query_row(&sql, [], |row| row.get(0)).unwrap();
        let line = format!("  {table:15} {rows} rows");
        assert!(demo.stdout.contains(&line), "{line}: {}", demo.stdout);
    }
    for line in [
        "records      4,000",
        "first rows of daily_summary",
        "task_runner load PATH",
    ] {
        assert!(demo.stdout.contains(line), "{line}: {}", demo.stdout);
    }
}

#[test]
fn the_embedded_pair_says_so_and_how_to_go_on() {
    let shell = Shell::new();
    let loaded = shell.run(&["load"]);
    assert!(
        loaded.stderr.contains("set DATABASE_URL and REDIS_URL"),
        "{}",
        loaded.stderr
    );
}

#[test]
fn doctor_reports_problems_and_how_to_repair_them() {
    let shell = Shell::new();
    let well = shell.run(&["doctor"]);
    assert_eq!(well.code, 0, "{}", well.stdout);
    assert!(well.stdout.contains("OK    directories: inbound"));
    let left = fs::read_dir(shell.path()).unwrap().count();
    assert_eq!(left, 0, "looking leaves nothing behind");

    let quarantine = shell.path().join("data/quarantine");
    fs::create_dir_all(&quarantine).unwrap();
    let there = shell.run_with(&["doctor"], &[("LEMONADE_DATA_DIR", "data")]);
    let moved = "data/quarantine is writable, and files can be moved there";
    assert!(there.stdout.contains(moved), "{}", there.stdout);
    let left = fs::read_dir(quarantine).unwrap().count();
    assert_eq!(left, 0, "nor does trying a move");

    let full = shell.run(&["doctor", "--disk-floor", "1PiB"]);
    assert_eq!(full.code, 1, "{}", full.stdout);
    assert!(full.stdout.contains("FAIL  directories: inbound has"));

    let gone = shell.run_with(&["doctor"], &[("REDIS_URL", "redis://127.0.0.1:1")]);
    assert_eq!(gone.code, 69, "{}", gone.stdout);
    assert!(gone.stdout.contains("FAIL  queue:"), "{}", gone.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_checks_real_servers() {
    let shell = Shell::new();
    let redis = crate::support::redis().await.fresh();
    for database in [
        crate::support::mariadb().await,
        crate::support::mysql9(false).await,
    ] {
        let url = database.fresh().await;
        let found = shell.run_with(
            &["doctor"],
            &[("DATABASE_URL", url.as_str()), ("REDIS_URL", &redis)],
        );
        assert_eq!(found.code, 0, "{}{}", found.stdout, found.stderr);
        for line in [
            "OK    database: the database is",
            "OK    database: innodb_flush_log_at_trx_commit is 1",
            "OK    queue: maxmemory-policy is noeviction",
            "WARN  queue: maxmemory is 0 bytes",
        ] {
            assert!(found.stdout.contains(line), "{}", found.stdout);
        }
        assert!(!found.stdout.contains("no right to"), "{}", found.stdout);
    }
}

#[test]
fn manual_pages_have_the_options_and_the_examples_of_each_command() {
    let shell = Shell::new();
    shell.write("lemonade.toml", "nonsense = 1\n");
    let absent = shell.run(&["manual", "absent"]);
    assert_eq!(absent.code, 66);
    assert!(
        absent.stderr.contains("writing manual pages to absent"),
        "{}",
        absent.stderr
    );
    std::fs::create_dir(shell.path().join("pages")).unwrap();
    let run = shell.run(&["manual", "pages"]);
    assert_eq!((run.code, &*run.stderr), (0, ""));
    let page = |name: &str| std::fs::read_to_string(shell.path().join("pages").join(name)).unwrap();
    let load = page("task_runner-load.1");
    for text in [
        ".TH task_runner-load 1",
        "max\\-rejects",
        "LEMONADE_WORKERS",
        "[LEMONADE_DISK_FLOOR]",
        "task_runner load",
    ] {
        assert!(load.contains(text), "{load}");
    }
    assert!(page("task_runner.1").contains("Exit codes:"));
    assert!(page("task_runner-rejects-purge.1").contains(".SH SYNOPSIS"));
}

#[test]
fn each_shell_gets_completions_of_the_commands_with_any_settings() {
    let shell = Shell::new();
    shell.write("lemonade.toml", "nonsense = 1\n");
    for name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = shell.run(&["completions", name]);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{name}");
        for word in ["task_runner", "rejects", "purge", "take-over-after"] {
            assert!(run.stdout.contains(word), "{name} lacks {word}");
        }
    }
    assert_eq!(shell.run(&["completions", "tcsh"]).code, 64);

    // Asks Bash for the possible completions.
    let script = shell.run(&["completions", "bash"]).stdout;
    shell.write("completions.bash", &script);
    let ask = "source completions.bash; COMP_WORDS=(task_runner queue dr); COMP_CWORD=2; \
               _task_runner task_runner dr queue; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash")
        .args(["--norc", "-c", ask])
        .current_dir(shell.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "drain\n", "{bash:?}");
}
