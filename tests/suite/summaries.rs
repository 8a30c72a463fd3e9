//! A summary whose table refuses its values: all rows are stored, and the summary follows once the
//! table takes them.

use std::fs;
use std::time::Duration;

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
