//! A summary whose table refuses its values: all rows are stored, and the summary follows once the
//! table takes them.

use std::fs;
use std::time::Duration;

use crate::support::{Pair, Service, names, until};

const WITHIN: Duration = Duration::from_secs(20);

/// A trigger on the table of the summary that refuses each value.
fn refusing(pair: &Pair) -> &'static str {
    if pair.name.ends_with("sqlite") {
        "CREATE TRIGGER closed BEFORE INSERT ON daily_summary BEGIN SELECT RAISE(ABORT, 'closed'); END"
    } else {
        "CREATE TRIGGER closed BEFORE INSERT ON daily_summary FOR EACH ROW SIGNAL SQLSTATE '45000' \
         SET MESSAGE_TEXT = 'closed'"
    }
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

async fn entries(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM daily_summary").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_stores_its_rows_and_names_the_summary_that_refuses_its_values() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        pair.execute(refusing(&pair)).await;
        deliver(&pair, "a");
        let output = pair.run(&["load"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{name}: {said}");
        for part in ["`daily_summary`", "closed", "trigger"] {
            assert!(said.contains(part), "{name}: no {part} in {said}");
        }
        assert_eq!(names(&pair.at("history")).len(), 1, "{name}");
        assert_eq!(entries(&pair).await, 0, "{name}");
        pair.execute("DROP TRIGGER closed").await;
        pair.expect(0, &["load"]);
        assert_eq!(entries(&pair).await, 1, "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_stores_on_while_the_summary_refuses_its_values() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        pair.execute(refusing(&pair)).await;
        let settings = "summary_every = \"200ms\"\n";
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        let mut service = Service::start(&pair, &["run"]);
        for (at, vehicle) in ["a", "b", "c"].into_iter().enumerate() {
            deliver(&pair, vehicle);
            let settled = async || names(&pair.at("history")).len() == at + 1;
            until("the file in history", WITHIN, settled).await;
        }
        assert_eq!(entries(&pair).await, 0, "{name}");
        pair.execute("DROP TRIGGER closed").await;
        until("the summary", WITHIN, async || entries(&pair).await == 3).await;
        assert_eq!(service.terminate(), Some(0), "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}
