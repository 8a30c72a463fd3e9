//! A summary whose table refuses its values: all rows are stored, and the summary follows once the
//! table takes them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::broker::address;
use crate::end_to_end::indexes::through;
use crate::support::proxy::{Manner, Proxy};
use crate::support::{Pair, Service, names, until};

const WITHIN: Duration = Duration::from_secs(20);

/// Two datasets with a summary: the built-in one, and another.
const ZONES: &str = "
[[datasets]]
name = 'zones'
columns = [
    { name = 'zone', type = 'text' },
    { name = 'at', type = 'timestamp' },
    { name = 'state', type = 'text' },
]
summary = { table = 'zones_daily', key = 'zone', time = 'at', value = 'state' }
";

/// A trigger on the table of a summary that refuses each value.
fn refusing(pair: &Pair, table: &str) -> String {
    let action = if pair.name.ends_with("sqlite") {
        "BEGIN SELECT RAISE(ABORT, 'closed'); END"
    } else {
        "FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'closed'"
    };
    format!("CREATE TRIGGER closed BEFORE INSERT ON {table} {action}")
}

/// Puts a file with one event of a vehicle into inbound.
fn deliver(pair: &Pair, vehicle: &str) {
    let event = format!(
        r#"{{"vehicle_id":"{vehicle}","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"1"}}"#
    );
    let document = format!(r#"{{"vehicle_events":[{event}]}}"#);
    let name = format!("vehicle_events_{vehicle}.json");
    fs::write(pair.at("inbound").join(name), document).unwrap();
}

async fn entries(pair: &Pair, table: &str) -> u64 {
    pair.number(&format!("SELECT COUNT(*) FROM {table}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_stores_its_rows_and_names_the_summary_that_refuses_its_values() {
    for (name, refused, other) in [
        ("memory+sqlite", "daily_summary", "zones_daily"),
        ("memory+sqlite", "zones_daily", "daily_summary"),
        ("memory+mysql", "daily_summary", "zones_daily"),
        ("memory+mysql", "zones_daily", "daily_summary"),
    ] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), ZONES).unwrap();
        pair.expect(0, &["migrate"]);
        pair.execute(&refusing(&pair, refused)).await;
        deliver(&pair, "a");
        let zone = r#"{"zone":"z","at":"2024-01-01T00:00:00Z","state":"open"}"#;
        fs::write(pair.at("inbound").join("zones_1.ndjson"), zone).unwrap();
        let output = pair.run(&["load"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{name}: {said}");
        for part in [&format!("`{refused}`"), "closed", "trigger"] {
            assert!(said.contains(part), "{name}: no {part} in {said}");
        }
        assert_eq!(names(&pair.at("history")).len(), 2, "{name}");
        assert_eq!(entries(&pair, refused).await, 0, "{name}");
        assert_eq!(entries(&pair, other).await, 1, "{name}");
        pair.execute("DROP TRIGGER closed").await;
        pair.expect(0, &["load"]);
        assert_eq!(entries(&pair, refused).await, 1, "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_stores_on_while_the_summary_refuses_its_values() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        pair.execute(&refusing(&pair, "daily_summary")).await;
        let settings = "summary_every = \"200ms\"\n";
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        let mut service = Service::start(&pair, &["run"]);
        for (at, vehicle) in ["a", "b", "c"].into_iter().enumerate() {
            deliver(&pair, vehicle);
            let settled = async || names(&pair.at("history")).len() == at + 1;
            until("the file in history", WITHIN, settled).await;
        }
        assert_eq!(entries(&pair, "daily_summary").await, 0, "{name}");
        pair.execute("DROP TRIGGER closed").await;
        until("the summary", WITHIN, async || {
            entries(&pair, "daily_summary").await == 3
        })
        .await;
        assert_eq!(service.terminate(), Some(0), "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// Records of one vehicle and day; the last one is the one to erase.
fn deliver_two(pair: &Pair, vehicle: &str) {
    let event = |hour: u32, kind: &str| {
        format!(
            r#"{{"vehicle_id":"{vehicle}","event_time":"2024-01-01T{hour:02}:00:00Z","event_source":"s","event_type":"{kind}","event_value":"1"}}"#
        )
    };
    let document = [event(1, "kept"), event(2, "SECRET")].join("\n");
    let name = format!("vehicle_events_{vehicle}.ndjson");
    fs::write(pair.at("inbound").join(name), document).unwrap();
}

/// Between the commit of a record and the refresh that adds it, the summary has no entry of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_or_forgotten_before_a_refresh_does_not_come_back_with_it() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        fs::write(pair.at("lemonade.toml"), "summary_every = \"12s\"\n").unwrap();
        let mut service = Service::start(&pair, &["run"]);
        deliver(&pair, "first");
        until("a first refresh", 3 * WITHIN, async || {
            entries(&pair, "daily_summary").await == 1
        })
        .await;
        deliver_two(&pair, "erased");
        deliver_two(&pair, "forgotten");
        until("the files in history", WITHIN, async || {
            names(&pair.at("history")).len() == 3
        })
        .await;
        let id =
            "SELECT id FROM vehicle_events WHERE vehicle_id = 'erased' AND event_type = 'SECRET'";
        let id = pair.number(id).await.to_string();
        pair.expect(0, &["erase", &id, "--yes"]);
        let file_no = "SELECT MAX(id >> 32) FROM vehicle_events WHERE vehicle_id = 'forgotten'";
        let file_no = pair.number(file_no).await.to_string();
        pair.expect(0, &["files", "forget", &file_no, "--yes"]);
        assert_eq!(
            entries(&pair, "daily_summary").await,
            1,
            "{name}: refreshed too early"
        );
        let of_erased = "SELECT COUNT(*) FROM daily_summary WHERE vehicle_id = 'erased'";
        until("the summary", 3 * WITHIN, async || {
            pair.number(of_erased).await == 1
        })
        .await;
        let kinds = pair
            .query("SELECT vehicle_id, last_event_type FROM daily_summary ORDER BY vehicle_id")
            .await;
        let kinds: Vec<Vec<&str>> = (kinds.iter())
            .map(|row| row.iter().map(|it| it.as_deref().unwrap()).collect())
            .collect();
        assert_eq!(kinds, [["erased", "kept"], ["first", "t"]], "{name}");
        assert_eq!(service.terminate(), Some(0), "{name}");
    }
}

/// As after a restore of the table without its ledger, or with a row of another program.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_the_id_of_an_erased_record_is_in_no_summary() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        deliver_two(&pair, "v");
        pair.expect(0, &["load"]);
        let file_no = pair.number("SELECT MAX(file_no) FROM ingest_files").await;
        let mark = format!(
            "INSERT INTO ingest_erased (file_no, ordinal, erased_at) VALUES ({file_no}, 1, '2024-01-01')"
        );
        pair.execute(&mark).await;
        pair.expect(0, &["summary", "--rebuild"]);
        let kinds = pair
            .query("SELECT last_event_type FROM daily_summary")
            .await;
        assert_eq!(kinds, [[Some("kept".to_owned())]], "{name}");
    }
}

/// The last day before, the day of 23 hours on which the clocks of Berlin change, and the next one.
const EVENTS: [(&str, &str); 4] = [
    ("2026-03-28T22:59:59.999999Z", "a"),
    ("2026-03-28T23:00:00Z", "b"),
    ("2026-03-29T21:59:59.999999Z", "c"),
    ("2026-03-29T22:00:00Z", "d"),
];
const IN_UTC: [(&str, &str); 2] = [("2026-03-28", "b"), ("2026-03-29", "d")];
const IN_BERLIN: [(&str, &str); 3] = [
    ("2026-03-28", "a"),
    ("2026-03-29", "c"),
    ("2026-03-30", "d"),
];

fn define_zone(pair: &Pair, time_zone: Option<&str>) {
    let zone = time_zone.map_or(String::new(), |zone| format!(", time_zone = '{zone}'"));
    let defined = ZONES.replace("value = 'state'", &format!("value = 'state'{zone}"));
    fs::write(pair.at("lemonade.toml"), defined).unwrap();
}

fn deliver_events(pair: &Pair) {
    let event = |(at, state)| format!(r#"{{"zone":"z","at":"{at}","state":"{state}"}}"#);
    let document = EVENTS.map(event).join("\n");
    fs::write(pair.at("inbound").join("zones_1.json"), document).unwrap();
}

async fn days(pair: &Pair) -> Vec<(String, String)> {
    let rows = pair.query("SELECT day, last_state FROM zones_daily ORDER BY day");
    let cells = |row: Vec<Option<String>>| {
        let [day, state] = <[_; 2]>::try_from(row).unwrap();
        (day.unwrap(), state.unwrap())
    };
    rows.await.into_iter().map(cells).collect()
}

fn texts(days: &[(&str, &str)]) -> Vec<(String, String)> {
    let days = days.iter();
    days.map(|(day, state)| ((*day).to_owned(), (*state).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_a_time_zone_are_summed_and_a_change_of_it_is_refused_until_a_rebuild() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        define_zone(&pair, None);
        deliver_events(&pair);
        pair.expect(0, &["load"]);
        assert_eq!(days(&pair).await, texts(&IN_UTC));

        for (zone, named, found) in [
            (
                Some("Europe/Berlin"),
                "UTC, and its definition has Europe/Berlin",
                &IN_BERLIN[..],
            ),
            (
                None,
                "Europe/Berlin, and its definition has UTC",
                &IN_UTC[..],
            ),
        ] {
            let before = days(&pair).await;
            define_zone(&pair, zone);
            for command in ["load", "run", "migrate", "summary"] {
                let refused = pair.run(&[command]);
                let message = String::from_utf8(refused.stderr).unwrap();
                assert_eq!(refused.status.code(), Some(78), "{message}");
                let problem = format!("`zones_daily` has the days of the time zone {named}");
                assert!(message.contains(&problem), "{message}");
                assert!(message.contains("summary --rebuild"), "{message}");
            }
            let doctor = pair.expect(78, &["doctor"]);
            assert!(doctor.contains(named), "{doctor}");
            assert_eq!(days(&pair).await, before);
            pair.expect(0, &["summary", "--rebuild"]);
            assert_eq!(days(&pair).await, texts(found));
            pair.expect(0, &["load"]);
        }
    }
}

/// By the rows that a process commits, and by rows that it reads from the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_summary_has_the_days_of_its_time_zone() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        define_zone(&pair, Some("Europe/Berlin"));
        let printed = pair.expect(0, &["migrate", "--print"]);
        let statement = printed
            .split(";\n")
            .find(|sql| sql.contains("summary_zone_"));
        deliver_events(&pair);
        pair.expect(0, &["load"]);
        assert_eq!(days(&pair).await, texts(&IN_BERLIN));
        pair.expect(0, &["summary", "--rebuild"]);
        assert_eq!(days(&pair).await, texts(&IN_BERLIN));

        // The statement that is printed does the same.
        pair.execute("DELETE FROM ingest_settings WHERE name LIKE 'summary_zone%'")
            .await;
        pair.expect(78, &["load"]);
        pair.execute(statement.unwrap()).await;
        pair.expect(0, &["load"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_time_zone_is_named_with_its_line() {
    let pair = Pair::new("memory+sqlite").await;
    define_zone(&pair, Some("Europe/Berln"));
    let refused = pair.run(&["load"]);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{message}");
    for part in [
        "lemonade.toml:",
        "unknown time zone `Europe/Berln`",
        "such as `Europe/Berlin`",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_is_stopped_says_how_to_go_on() {
    let pair = Pair::new("memory+mysql").await;
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.set(Manner::Blackhole);
    let mut command = through(&pair, &proxy, &["summary"]);
    let summary = command.stderr(Stdio::piped()).spawn().unwrap();
    until("a connection", WITHIN, async || proxy.accepted() > 0).await;
    kill_process(Pid::from_child(&summary), Signal::INT).unwrap();
    let output = summary.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    let next_step = "nothing is lost, run it again to continue\n";
    assert!(said.ends_with(next_step), "{said}");
}
