//! Settings as a user sees them: their sources, how they are printed, and initial files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::Shell;

#[test]
fn an_unknown_setting_exits_with_78_and_names_file_line_and_the_similar_one() {
    let shell = Shell::new();
    shell.write("lemonade.toml", "workers = 2\nmemory_bugdet = '64MiB'\n");
    let run = shell.run(&["config", "show"]);
    assert_eq!(run.code, 78, "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("lemonade.toml:2"), "{}", run.stderr);
    assert!(
        run.stderr.contains("did you mean `memory_budget`?"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_unusable_setting_exits_with_78() {
    let shell = Shell::new();
    for variable in [
        ("LEMONADE_WORKERS", "many"),
        ("DATABASE_URL", "postgres://h/d"),
        ("REDIS_URL_FILE", "not-there"),
        ("LEMONADE_LOG", "loud=very"),
        ("DB_PORT", "99999"),
        ("LEMONADE_HTTP_ADDR", "localhost"),
    ] {
        let run = shell.run_with(&["config", "show"], &[variable]);
        assert_eq!(run.code, 78, "{variable:?}: {run:?}");
        let name = variable.0.trim_end_matches("_FILE");
        let named = run.stderr.contains(name) || run.stderr.contains(variable.1);
        assert!(named, "{variable:?}: {}", run.stderr);
    }
}

/// The path of inbound, wherever it is set: without the directory above it, it is most likely
/// mistyped.
#[test]
fn a_mistyped_inbound_is_refused_and_a_missing_one_is_created() {
    let no_file = "";
    let in_file = "inbound = 'nowhere/in'\n";
    for (args, variables, file, code, expected) in [
        (
            &["load", "--inbound", "nowhere/in"][..],
            &[][..],
            no_file,
            66,
            "/nowhere; correct the path",
        ),
        (
            &["run", "--inbound", "nowhere/in"],
            &[],
            no_file,
            66,
            "/nowhere; correct the path",
        ),
        (
            &["load"],
            &[("LEMONADE_INBOUND", "nowhere/in")],
            no_file,
            66,
            "/nowhere; correct",
        ),
        (
            &["load"],
            &[("SRC_PATH", "nowhere/a/in")],
            no_file,
            66,
            "/nowhere/a; correct",
        ),
        (&["load"], &[], in_file, 66, "/nowhere; correct the path"),
        (
            &["load", "--inbound", "in"],
            &[],
            no_file,
            0,
            "in did not exist and is created",
        ),
        (
            &["load", "--inbound", "d/x/in", "--data-dir", "./d"],
            &[],
            no_file,
            0,
            "nothing to load",
        ),
        (
            &["load", "--data-dir", "nowhere/d"],
            &[],
            no_file,
            0,
            "nothing to load",
        ),
    ] {
        let shell = Shell::new();
        shell.write("lemonade.toml", file);
        let variables = [variables, &[("LEMONADE_HTTP_ADDR", "off")]].concat();
        let run = shell.run_with(args, &variables);
        assert_eq!(run.code, code, "{args:?} {variables:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{args:?}: {}", run.stderr);
        assert_eq!(
            run.stderr.contains("is created"),
            args.contains(&"in"),
            "{}",
            run.stderr
        );
        let inbound = shell.path().join("nowhere/in");
        assert!(!inbound.exists(), "{args:?}");
    }
    let shell = Shell::new();
    let report = shell.run(&["doctor", "--inbound", "nowhere/in"]);
    assert_eq!(report.code, 66, "{report:?}");
    let report = report.stdout;
    assert!(
        report.contains("FAIL  directories: inbound: there is no directory "),
        "{report}"
    );
}

#[test]
fn an_address_without_its_form_is_answered_with_an_example() {
    let shell = Shell::new();
    for addr in ["9464", "localhost:9464", "127.0.0.1", ":9464", ""] {
        let run = shell.run(&["config", "show", "--http-addr", addr]);
        assert_eq!(run.code, 64, "{addr}: {run:?}");
        assert!(
            run.stderr.contains("such as 127.0.0.1:9464"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn with_nothing_set_settings_are_those_of_the_embedded_pair() {
    let shell = Shell::new();
    let run = shell.run(&["config", "show"]);
    assert_eq!(run.code, 0);
    for line in [
        "database_url = \"sqlite:./lemonade-data/lemonade.db\"",
        "redis_url = \"memory:\"",
        "inbound = \"./lemonade-data/inbound\"",
        "http_addr = \"127.0.0.1:9464\"",
        "frame_records = 2000",
    ] {
        assert!(
            run.stdout.lines().any(|shown| shown == line),
            "{line} is not in {}",
            run.stdout
        );
    }
    assert_eq!(
        fs::read_dir(shell.path()).unwrap().count(),
        0,
        "the command creates no file"
    );
}

#[test]
fn config_show_prints_a_valid_settings_file() {
    let shell = Shell::new();
    let shown = shell.run(&[
        "config",
        "show",
        "--workers",
        "7",
        "--summary-every",
        "1h 30m",
    ]);
    shell.write("lemonade.toml", &shown.stdout);
    assert_eq!(shell.run(&["config", "show"]).stdout, shown.stdout);
}

#[test]
fn a_settings_file_to_begin_with_changes_nothing_and_replaces_none() {
    let shell = Shell::new();
    let before = shell.run(&["config", "show"]).stdout;
    let run = shell.run(&["config", "init"]);
    assert_eq!((run.code, &*run.stdout), (0, ""), "{run:?}");
    let path = shell.path().join("lemonade.toml");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the file may get a password");
    assert_eq!(shell.run(&["config", "show"]).stdout, before);

    let ours = fs::read_to_string(&path).unwrap();
    let ours = ours.replace("#frame_records = 2000", "frame_records = 30");
    shell.write("lemonade.toml", &ours);
    let shown = shell.run(&["config", "show"]).stdout;
    assert!(shown.contains("\nframe_records = 30\n"), "{shown}");
    let again = shell.run(&["config", "init"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("name another file"), "{again:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), ours);
}

#[test]
fn a_settings_file_to_begin_with_is_made_where_the_settings_are_wrong() {
    let shell = Shell::new();
    shell.write("lemonade.toml", "workers = 'many'\n");
    assert_eq!(shell.run(&["config", "show"]).code, 78);
    assert_eq!(shell.run(&["config", "init", "new.toml"]).code, 0);
    assert!(shell.path().join("new.toml").exists());
    let run = shell.run(&["config", "init", "nowhere/new.toml"]);
    assert_eq!(run.code, 66, "{run:?}");
    assert!(run.stderr.contains("nowhere/new.toml"), "{run:?}");
}

#[test]
fn the_schema_knows_the_keys_of_a_settings_file_and_of_a_dataset() {
    let shell = Shell::new();
    let shown = shell.run(&["config", "show"]).stdout;
    let mut keys: Vec<&str> = shown
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .chain(["datasets"])
        .collect();
    keys.sort_unstable();
    shell.write("lemonade.toml", "workers = 'many'\n");
    let run = shell.run(&["config", "schema"]);
    assert_eq!(run.code, 0, "{run:?}");
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let mut known: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    known.sort_unstable();
    assert_eq!(known, keys);
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["workers"]["minimum"], 1);
    let required = |of: &str| schema["$defs"][of]["required"].clone();
    assert_eq!(required("Dataset"), serde_json::json!(["name"]));
    assert_eq!(required("Column"), serde_json::json!(["name", "type"]));
}

#[test]
fn the_old_names_and_dotenv_are_honoured_and_passwords_are_not_shown() {
    let shell = Shell::new();
    shell.write(
        ".env",
        "DB_USERNAME=lemon\nDB_PASSWORD='s3cret'\nDB_HOST=db\nREDIS_HOST=queue\n\
         SRC_PATH=/srv/in\nHISTORY_PATH=/srv/done\nLOG_DIR=/var/log\n",
    );
    let run = shell.run_with(&["config", "show"], &[("DB_HOST", "from-the-environment")]);
    assert_eq!(run.code, 0, "{run:?}");
    for line in [
        "database_url = \"mysql://lemon:***@from-the-environment:3307/vehicles\"",
        "redis_url = \"redis://queue:6379\"",
        "inbound = \"/srv/in\"",
        "history = \"/srv/done\"",
    ] {
        assert!(
            run.stdout.lines().any(|shown| shown == line),
            "{line} is not in {}",
            run.stdout
        );
    }
    assert!(run.stderr.contains("logs go to stderr"), "{}", run.stderr);
    assert!(!run.stdout.contains("s3cret") && !run.stderr.contains("s3cret"));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let shell = Shell::new();
    shell.write(
        "other.toml",
        "workers = 3\nframe_records = 30\nquiet_time = '3s'\n",
    );
    let run = shell.run_with(
        &["config", "show", "--config", "other.toml", "--workers", "1"],
        &[("LEMONADE_WORKERS", "2"), ("LEMONADE_FRAME_RECORDS", "20")],
    );
    for line in ["workers = 1", "frame_records = 20", "quiet_time = \"3s\""] {
        assert!(
            run.stdout.lines().any(|shown| shown == line),
            "{line} is not in {}",
            run.stdout
        );
    }
}

/// A file of one record, loaded into the embedded pair.
fn load_one(shell: &Shell, variables: &[(&str, &str)]) -> super::Run {
    shell.write("vehicle_status_a.ndjson", "{\"vehicle_id\":\"v\"}\n");
    shell.run_with(&["load", "vehicle_status_a.ndjson"], variables)
}

#[test]
fn a_link_of_kubernetes_changes_nothing() {
    for service in ["REDIS", "DB", "LEMONADE"] {
        let shell = Shell::new();
        let (port, host) = (format!("{service}_PORT"), format!("{service}_SERVICE_HOST"));
        let links = [(&*port, "tcp://10.96.0.12:6379"), (&*host, "10.96.0.12")];
        let run = load_one(&shell, &[super::NO_HTTP, links[0], links[1]]);
        // The one record lacks a required field.
        assert_eq!(run.code, 2, "{service}: {run:?}");
        let said = run
            .stderr
            .contains(&format!("{port} is a link to a service"));
        assert_eq!(said, service != "LEMONADE", "{run:?}");
        assert!(!run.stderr.contains("did you mean"), "{run:?}");
    }
}

#[test]
fn only_this_user_can_read_the_files_of_sqlite() {
    use rusqlite::Connection;

    let shell = Shell::new();
    let migrated = shell.run(&["migrate"]);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let data = shell.path().join("lemonade-data");
    let database = data.join("lemonade.db");
    // SQLite keeps two more files beside it while a program has it open.
    let open = Connection::open(&database).unwrap();
    open.execute_batch("BEGIN IMMEDIATE; CREATE TABLE x (y); COMMIT")
        .unwrap();
    for ending in ["", "-wal", "-shm"] {
        let path = data.join(format!("lemonade.db{ending}"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path:?}");
    }
    drop(open);
    assert!(!shell.run(&["doctor"]).stdout.contains("other users"));
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let found = shell.run(&["doctor"]).stdout;
    assert!(
        found.contains("WARN  database: SQLite: other users"),
        "{found}"
    );
}

/// Passwords with any characters, in every part of a URL, and every command that shows or uses the
/// URL, with the log at its most detailed level.
#[test]
fn no_command_shows_a_part_of_a_password() {
    let pieces = ["Qq1x", "Zz2v"];
    let secrets = [
        "Qq1x/Zz2v",
        "Qq1x?Zz2v",
        "Qq1x#Zz2v",
        "Qq1x@Zz2v",
        "Qq1x:Zz2v",
        "Qq1x%Zz2v",
    ];
    let shapes = [
        ("DATABASE_URL", "mysql://root:SECRET@127.0.0.1:1/v"),
        ("DATABASE_URL", "mysql://127.0.0.1:1/v?password=SECRET"),
        ("DATABASE_URL", "mysql://root:SECRET"),
        ("DATABASE_URL", "SECRET"),
        ("REDIS_URL", "redis://:SECRET@127.0.0.1:1"),
        ("REDIS_URL", "redis://SECRET@127.0.0.1:1/0?x=SECRET"),
        ("REDIS_URL", "redis://127.0.0.1:1?password=SECRET"),
    ];
    let shell = Shell::new();
    for (name, shape) in shapes {
        for secret in secrets {
            // In a URL, the text after an @ is a host, and the text before a colon is a user.
            let is_host = shape.ends_with(":SECRET") && secret.contains('@');
            let is_user = shape.contains("//SECRET@") && secret.contains(':');
            if is_host || is_user {
                continue;
            }
            let url = shape.replace("SECRET", secret);
            let variables = [(name, &*url), super::NO_HTTP, ("LEMONADE_LOG", "trace")];
            for command in ["config", "doctor", "queue"] {
                let arguments = match command {
                    "config" => &["config", "show"][..],
                    "queue" => &["queue", "peek"],
                    command => &[command],
                };
                let run = shell.run_with(arguments, &variables);
                for piece in pieces {
                    let shown = run.stdout.contains(piece) || run.stderr.contains(piece);
                    assert!(!shown, "{arguments:?} {url}: {run:?}");
                }
            }
        }
    }
}

/// A server that answers each client with this error.
fn hostile_server(answer: Vec<u8>) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let answer = answer.clone();
            std::thread::spawn(move || {
                let _ = stream.write_all(&answer);
                // The connection stays open until the client has read the answer and closes it.
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    addr
}

#[test]
fn texts_of_a_server_reach_a_terminal_escaped() {
    let hostile = "\u{1b}]0;x\u{7}\u{1b}[2J denied\u{9b}";
    // An error packet of MySQL in the place of a greeting, and an error of Redis.
    let error = [&b"\xff\x15\x04#28000"[..], hostile.as_bytes()].concat();
    let header = [u8::try_from(error.len()).unwrap(), 0, 0, 0];
    let database = hostile_server([&header[..], &error].concat());
    let redis = hostile_server(format!("-WRONGPASS {hostile}\r\n").into_bytes());
    let shell = Shell::new();
    let urls = [
        ("DATABASE_URL", format!("mysql://u@{database}/v")),
        ("REDIS_URL", format!("redis://{redis}")),
    ];
    for (name, url) in urls {
        for arguments in [
            &["doctor"][..],
            &["queue", "peek"],
            &["files", "list"],
            &["status"],
        ] {
            let run = shell.run_with(arguments, &[(name, &url), super::NO_HTTP]);
            let said = run.stdout + &run.stderr;
            let raw = said.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t'));
            assert!(!raw, "{arguments:?} {url}: {said:?}");
        }
        let doctor = shell.run_with(&["doctor"], &[(name, &url), super::NO_HTTP]);
        assert!(doctor.stdout.contains("denied"), "{doctor:?}");
    }
}
