//! Datasets whose `records` lead to no array in the files that they take by name.

use super::*;

/// Orders, with their items in a dataset of their own, whose `records` are given.
fn settings(orders: &str, items: &str) -> String {
    format!(
        "[[datasets]]\nname = 'orders'\nrecords = '{orders}'\n\
         columns = [{{name = 'no', type = 'integer'}}]\n\
         [[datasets]]\nname = 'order_items'\nfiles = 'orders'\nalso = true\nrecords = '{items}'\n\
         columns = [{{name = 'sku', type = 'text'}}]\n"
    )
}

const ORDERS: &str = r#"{"data":{"orders":[{"no":1,"items":[{"sku":"a"}]},{"no":2,"items":[]}]}}"#;

/// No item, and all arrays.
const WITHOUT_ITEMS: &str = r#"{"data":{"orders":[{"no":3,"items":[]}]}}"#;

/// No item, and no array of them.
const ONLY_ORDERS: &str = r#"{"data":{"orders":[{"no":4}]}}"#;

/// What a command that succeeds says on stderr.
fn said(pair: &Pair, args: &[&str]) -> String {
    let output = pair.run(args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What `check` and `load` say of the items, and whether `check` takes it for a problem.
#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_that_meets_nothing_is_told() {
    let items = "/data/orders/*/items";
    let wrong = "/data/order/*/items";
    for (pointer, files, code, checked, loaded) in [
        (
            items,
            &[ORDERS, WITHOUT_ITEMS][..],
            0,
            "order_items: 2 files by name, 1 records\n",
            None,
        ),
        (
            items,
            &[WITHOUT_ITEMS],
            0,
            "order_items: 1 file by name, 0 records\n",
            None,
        ),
        // Optional arrays are no problem, as long as one file has them.
        (
            items,
            &[ORDERS, ONLY_ORDERS],
            0,
            "order_items: 2 files by name, 1 records; in 1 of them no array at \
             `/data/orders/*/items`; inbound/orders_1.json has arrays of objects at `/data/orders` (1)\n",
            Some("order_items: no array at `/data/orders/*/items` in 1 of 2 files that it takes; "),
        ),
        (
            wrong,
            &[ORDERS, WITHOUT_ITEMS],
            2,
            "order_items: 2 files by name, no array at `/data/order/*/items`; \
             inbound/orders_0.json has arrays of objects at `/data/orders` (2)\n",
            Some("order_items: no array at `/data/order/*/items` in 2 of 2 files that it takes; "),
        ),
    ] {
        let pair = Pair::new("memory+sqlite").await;
        let text = settings("/data/orders", pointer);
        fs::write(pair.at("lemonade.toml"), text).unwrap();
        for (at, file) in files.iter().enumerate() {
            let name = format!("orders_{at}.json");
            fs::write(pair.at("inbound").join(name), file).unwrap();
        }
        let found = pair.expect(code, &["check", "inbound"]);
        assert!(found.contains(checked), "{pointer}: {found}");
        // For a load, it is information: the files are stored.
        let report = said(&pair, &["load"]);
        let line = report.lines().find(|line| line.contains("no array at"));
        match (line, loaded) {
            (None, None) => {}
            (Some(line), Some(loaded)) => {
                assert!(line.contains(loaded), "{report}");
                let (_, command) = line.split_once("`task_runner check ").unwrap();
                let (file, _) = command.split_once('`').unwrap();
                assert!(Path::new(file).starts_with(pair.at("history")), "{line}");
                assert!(Path::new(file).exists(), "{line}");
            }
            _ => panic!("{pointer}: {report}"),
        }
        let verified = pair.expect(0, &["verify"]);
        let is_noted = verified.contains("note: no file has an array of `order_items`, ");
        assert_eq!(is_noted, pointer == wrong, "{pointer}: {verified}");
    }
}

/// The file belongs to a dataset that has nothing in it, and another dataset has its array.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_only_another_dataset_has_records_in_is_told() {
    let pair = Pair::new("memory+sqlite").await;
    fs::write(
        pair.at("lemonade.toml"),
        settings("/data/order", "/data/orders"),
    )
    .unwrap();
    let file = pair.at("orders_0.json");
    fs::write(&file, r#"{"data":{"orders":[{"sku":"a"}]}}"#).unwrap();
    let file = file.to_str().unwrap();
    let checked = pair.expect(2, &["check", file]);
    assert!(
        checked.contains("orders: 1 file by name, no array at `/data/order`;"),
        "{checked}"
    );
    let json = pair.expect(2, &["check", "--json", file]);
    let sums: serde_json::Value = json
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .next_back()
        .unwrap();
    let mut datasets = sums["datasets"].as_array().unwrap().iter();
    let of_orders = datasets.find(|of| of["dataset"] == "orders").unwrap();
    assert_eq!(of_orders["unmet"], 1, "{json}");
    assert_eq!(of_orders["arrays"][0], "/data/orders", "{json}");
    // From an archive, the line of `load` has the path of the file.
    let report = said(&pair, &["load", file]);
    assert!(
        report.contains(&format!("`task_runner check {file}` names the arrays")),
        "{report}"
    );
}

/// The log of a service has one line for many files.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_tells_of_many_files_in_one_line() {
    const FILES: u64 = 40;
    let pair = Pair::new("memory+sqlite").await;
    let text = settings("/data/orders", "/data/order/*/items");
    fs::write(pair.at("lemonade.toml"), text).unwrap();
    for at in 0..FILES {
        let file = ORDERS.replace("\"no\":1", &format!("\"no\":1{at}"));
        fs::write(pair.at("inbound").join(format!("orders_{at}.json")), file).unwrap();
    }
    let log = pair.at("service.log");
    let mut command = pair.command(&["run"]);
    command.env("LEMONADE_HTTP_ADDR", "off");
    let spawned = command
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap());
    let mut service = Service(spawned.spawn().unwrap());
    let stored = async || names(&pair.at("history")).len() as u64 == FILES;
    until("all files in history", Duration::from_secs(60), stored).await;
    service.terminate();
    let log = fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("no array at `/data/order/*/items`"))
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    let line: serde_json::Value = serde_json::from_str(told[0]).unwrap();
    assert_eq!(line["level"], "WARN", "{line}");
    assert!(line["files"].as_u64().unwrap() >= 1, "{line}");
    assert_eq!(line["dataset"], "order_items", "{line}");
}
