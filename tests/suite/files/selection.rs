//! Which files are loaded, and into which dataset: globs over directories, datasets that are off,
//! temporary names.

use std::fs;

use super::*;

const SETTINGS: &str = "
temporary_files = '*.writing'

[[datasets]]
name = 'vehicle_events'
enabled = false

[[datasets]]
name = 'orders'
files = 'orders/day=*/part-*'
columns = [{name = 'no', type = 'text'}]

[[datasets]]
name = 'items'
files = 'items/**/part-*'
columns = [{name = 'no', type = 'text'}]

[[datasets]]
name = 'items_audit'
files = 'items/**/part-*'
also = true
columns = [{name = 'audited', field = '/no', type = 'text'}]
";

/// The files of an archive have equal names, and their directories say which dataset they belong to.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_selected_by_their_directories() {
    let pair = embedded().await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let archive = pair.at("archive");
    for (path, text) in [
        ("orders/day=1/part-0.json", "[{\"no\":\"o1\"}]"),
        ("orders/day=2/part-0.json", "[{\"no\":\"o2\"}]"),
        ("items/part-0.json", "[{\"no\":\"i1\"}]"),
        (
            "items/day=1/hour=2/part-0.json",
            "[{\"no\":\"i2\"},{\"no\":1,\"no\":2}]",
        ),
        ("items/day=1/part-1.json.writing", "[{\"no\":\"i3\"}"),
    ] {
        let path = archive.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let planned = pair.expect(0, &["load", "--dry-run", "archive"]);
    assert_eq!(planned.matches("\torders\n").count(), 2, "{planned}");
    assert_eq!(
        planned.matches("\titems, items_audit\n").count(),
        2,
        "{planned}"
    );
    let checked = pair.expect(2, &["check", "archive"]);
    assert!(
        checked.contains("4 files, 0 of them unreadable; 8 records: 6 rows"),
        "{checked}"
    );
    pair.expect(2, &["load", "archive"]);
    let texts = async |sql: &str| {
        let rows = pair.query(sql).await.into_iter();
        rows.flatten().flatten().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(texts("SELECT no FROM orders ORDER BY no").await, "o1 o2");
    assert_eq!(texts("SELECT no FROM items ORDER BY no").await, "i1 i2");
    assert_eq!(
        texts("SELECT audited FROM items_audit ORDER BY audited").await,
        "i1 i2"
    );
    pair.expect(0, &["verify", "--content"]);
    let exported = pair.expect(0, &["rejects", "export"]);
    assert!(
        exported.contains("{\\\"no\\\":1,\\\"no\\\":2}"),
        "{exported}"
    );

    // The built-in dataset is off, and its table does not exist. A temporary name of another
    // program is no temporary name by this setting.
    let inbound = pair.at("inbound");
    fs::write(inbound.join("vehicle_events_1.json"), "[]").unwrap();
    fs::write(inbound.join("vehicle_status_1.json.writing"), "[").unwrap();
    fs::write(
        inbound.join("vehicle_status_2.json.tmp"),
        format!("[{}]", record("good")),
    )
    .unwrap();
    let report = pair.expect(2, &["load"]);
    assert!(report.contains("quarantined  1"), "{report}");
    assert_eq!(names(&inbound), ["vehicle_status_1.json.writing"]);
    assert_eq!(good_rows(&pair).await, 1);
    let reason = fs::read_to_string(pair.at("quarantine/vehicle_events_1.json.reason")).unwrap();
    assert!(reason.starts_with("no_dataset: "), "{reason}");
    let tables = "SELECT COUNT(*) FROM sqlite_master WHERE name IN ('vehicle_events', \
                  'daily_summary')";
    assert_eq!(pair.number(tables).await, 0);
}
