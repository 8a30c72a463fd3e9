//! The limits of history: a service removes the oldest files, and the rows stay.

use std::fs;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_keeps_history_within_its_limits() {
    for (setting, kept) in [
        ("history_max_bytes = '2KiB'", 2),
        ("history_max_bytes = '3KiB'", 3),
        ("history_max_age = '30days'", 5),
        ("history_max_age = '1ms'", 0),
        ("", 5),
    ] {
        let pair = Pair::new("memory+sqlite").await;
        let definition = "[[datasets]]\nname = 'm'\ncolumns = [{ name = 'a', type = 'text', max_chars = 1000 }]\n";
        fs::write(pair.at("lemonade.toml"), definition).unwrap();
        let put = |number: usize| {
            let text = format!("{{\"a\":\"{number:01000}\"}}\n");
            fs::write(pair.at("inbound").join(format!("m_{number}.json")), text).unwrap();
        };
        fs::create_dir_all(pair.at("inbound")).unwrap();
        for number in 0..5 {
            put(number);
            // One file after the other, so that their order in history is known.
            pair.expect(0, &["load"]);
        }
        fs::write(pair.at("lemonade.toml"), format!("{setting}\n{definition}")).unwrap();
        pair.expect(0, &["load"]);
        assert_eq!(
            tree(&pair.at("history")).len(),
            5,
            "{setting}: a load removes nothing"
        );
        let service = Service::start(&pair, &["run"]);
        let newest: Vec<String> = (5 - kept..5)
            .map(|number| format!("m_{number}.json"))
            .collect();
        until("history to be within its limits", LIMIT, async || {
            tree(&pair.at("history")) == newest
        })
        .await;
        if kept == 5 {
            // A file that comes later shows that the first pass is over.
            put(5);
            until("one more file to be in history", LIMIT, async || {
                tree(&pair.at("history")).len() == 6
            })
            .await;
            assert_eq!(pair.number("SELECT COUNT(*) FROM m").await, 6, "{setting}");
        }
        drop(service);
        let audit = pair.expect(0, &["verify"]);
        assert!(audit.contains("5 files") || kept == 5, "{setting}: {audit}");
    }
}
