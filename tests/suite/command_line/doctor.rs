//! `doctor` says what a start would do: both end with the same exit code.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::process::Command;

use super::{NO_HTTP, Shell};
use crate::broker::raw;
use crate::support::{self, Pair};

/// Partitions, which SQLite does not have.
const PARTITIONED: &str = "[[datasets]]\nname = \"trips\"\npartition_by = \"at\"\ncolumns = [\n  \
                           { name = \"at\", type = \"timestamp\" },\n]\n";

/// `doctor` and this start end with this code. Returns what `doctor` prints.
fn both(
    shell: &Shell,
    start: &str,
    code: i32,
    flags: &[&str],
    variables: &[(&str, &str)],
) -> String {
    let variables = [&[NO_HTTP][..], variables].concat();
    let with = |command| shell.run_with(&[&[command][..], flags].concat(), &variables);
    let doctor = with("doctor");
    assert_eq!(doctor.code, code, "{flags:?} {variables:?}: {doctor:?}");
    let started = with(start);
    assert_eq!(started.code, code, "{flags:?} {variables:?}: {started:?}");
    doctor.stdout
}

#[test]
fn settings_for_which_a_start_ends_have_its_code() {
    let away = ("DATABASE_URL", "mysql://u@127.0.0.1:1/v");
    let lag = "mysql://u:p@127.0.0.1:1/v?nonsense=1";
    for (code, flags, variables, said) in [
        (
            66,
            &["--inbound", "nowhere/in"][..],
            &[][..],
            "FAIL  directories: inbound: there is no directory",
        ),
        (
            78,
            &["--history", "h", "--work", "h/work"],
            &[],
            "lies in history",
        ),
        (78, &["--history", "link"], &[], "leads nowhere"),
        (69, &[], &[away], "FAIL  database: "),
        (
            69,
            &[],
            &[("REDIS_URL", "redis://127.0.0.1:1")],
            "FAIL  queue: ",
        ),
        // The worst problem decides.
        (78, &[], &[away, ("REPLICA_URL", lag)], "FAIL  replicas: "),
        (
            78,
            &[],
            &[
                ("LEMONADE_OTLP_URL", "http://127.0.0.1:1"),
                ("LEMONADE_OTLP_HEADERS_FILE", "nowhere"),
            ],
            "FAIL  settings: otlp_headers_file: nowhere",
        ),
    ] {
        let shell = Shell::new();
        symlink("nowhere", shell.path().join("link")).unwrap();
        let found = both(&shell, "load", code, flags, variables);
        assert!(found.contains(said), "{said}: {found}");
    }
}

#[test]
fn a_file_with_a_secret_that_cannot_be_used_has_the_code_of_a_service() {
    let shell = Shell::new();
    shell.write("short", "short\n");
    for (name, said) in [("nowhere", "No such file"), ("short", "has 5 bytes")] {
        let variables = [
            ("LEMONADE_HTTP_ADDR", "127.0.0.1:0"),
            ("LEMONADE_HTTP_TOKEN_FILE", name),
        ];
        let found = both(&shell, "run", 78, &[], &variables);
        let named = format!("FAIL  settings: http_token_file: {name}");
        assert!(found.contains(&named) && found.contains(said), "{found}");
        assert!(found.contains("openssl rand"), "{found}");
    }
    // Without a page, no file is read.
    let off = [("LEMONADE_HTTP_TOKEN_FILE", "nowhere")];
    both(&shell, "load", 0, &[], &off);
}

#[test]
fn partitions_in_sqlite_are_refused_before_and_after_the_file_exists() {
    let shell = Shell::new();
    shell.write("lemonade.toml", PARTITIONED);
    for exists in [false, true] {
        let database = shell.path().join("lemonade-data/lemonade.db");
        assert_eq!(database.exists(), exists);
        let found = both(&shell, "load", 78, &[], &[]);
        assert!(found.contains("SQLite has no partitions"), "{found}");
    }
}

/// Of a user without further rights.
#[test]
fn a_directory_that_denies_access_has_the_code_of_a_start() {
    const NOBODY: u32 = 65_534;
    let is_root = rustix::process::geteuid().is_root();
    let shell = Shell::new();
    let through: &[&str] = if is_root {
        chown(shell.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
    } else {
        &["env"]
    };
    let closed = |name: &str, mode: u32| {
        let path = shell.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    closed("read-only", 0o555);
    closed("no-entry", 0o000);
    shell.write("secret", "a secret of many bytes\n");
    let secret = shell.path().join("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let code = |arguments: &[&str]| {
        let output = Command::new(through[0])
            .args(&through[1..])
            .arg(env!("CARGO_BIN_EXE_task_runner"))
            .args(arguments)
            .current_dir(shell.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(said).unwrap(),
        )
    };
    for flags in [
        ["--history", "read-only/history"],
        ["--work", "read-only"],
        ["--history", "no-entry"],
    ] {
        for command in ["doctor", "load"] {
            let (code, said) = code(&[&[command][..], &flags, &["--http-addr", "off"]].concat());
            assert_eq!(code, 77, "{command} {flags:?}: {said}");
        }
    }
    // A start goes on, and no file can be moved there.
    let flags = ["--history", "read-only", "--http-addr", "off"];
    assert_eq!(code(&[&["doctor"][..], &flags].concat()).0, 1);
    assert_eq!(code(&[&["load"][..], &flags].concat()).0, 0);
    for command in ["doctor", "run"] {
        let (code, said) = code(&[
            command,
            "--http-addr",
            "127.0.0.1:0",
            "--http-token-file",
            "secret",
        ]);
        assert_eq!(code, 77, "{command}: {said}");
        assert!(said.contains("http_token_file: secret"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_start_refuses_have_its_code() {
    let record = r#"{"vehicle_status": [{"vehicle_id":"v-1","report_time":"2022-06-05T21:02:34Z","status_source":"mobile","status":"ok"}]}"#;
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        let refused = |said: &str| {
            let found = pair.expect(78, &["doctor"]);
            assert!(found.contains(said), "{name}: {said}: {found}");
            pair.expect(78, &["load"]);
        };
        pair.execute("CREATE TABLE vehicle_status (id INTEGER PRIMARY KEY)")
            .await;
        refused("does not fit its dataset");
        pair.execute("DROP TABLE vehicle_status").await;
        pair.expect(0, &["doctor"]);
        fs::write(pair.at("inbound").join("vehicle_status_a.json"), record).unwrap();
        pair.expect(0, &["load"]);
        pair.expect(0, &["doctor"]);
        pair.execute("DELETE FROM vehicle_status").await;
        refused("has no row of file 1");
        pair.execute("DROP TABLE vehicle_status").await;
        refused("the table `vehicle_status` is missing");
        // This table is made again, and does not hide what a start refuses.
        pair.execute("DROP TABLE ingest_settings").await;
        refused("the table `vehicle_status` is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_a_server_refuses_have_the_code_of_a_start() {
    let mut pair = Pair::new("memory+mysql").await;
    let url = pair.database_url.clone();
    let (place, _) = url.rsplit_once('/').unwrap();
    for refused in [
        url.replace("root@", "root:wrong@"),
        format!("{place}/of_no_such_name"),
    ] {
        pair.database_url = refused;
        let found = pair.expect(78, &["doctor"]);
        assert!(found.contains("FAIL  database: "), "{found}");
        pair.expect(78, &["load"]);
    }
    let redis = support::private_redis().await;
    let port = redis.port;
    let rights = "+@stream +@connection +memory|usage +del";
    raw(
        port,
        &[
            &format!("ACL SETUSER uninformed on >pw ~lemonade:* {rights}"),
            "ACL SETUSER idle on >pw ~lemonade:* +@connection +info",
        ],
    );
    let mut pair = Pair::new("memory+sqlite").await;
    for (user, code, said) in [
        ("idle:wrong", 78, "FAIL  queue: "),
        ("idle:pw", 78, "FAIL  queue: "),
        (
            "uninformed:pw",
            0,
            "WARN  queue: this user of redis may not run INFO",
        ),
    ] {
        pair.redis_url = Some(format!("redis://{user}@127.0.0.1:{port}"));
        let found = pair.expect(code, &["doctor"]);
        assert!(found.contains(said), "{user}: {found}");
        pair.expect(code, &["load"]);
    }
}
