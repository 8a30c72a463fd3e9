//! Datasets that take a file by its name and have nothing in it.

use super::*;

/// The datasets that take a file by its name and have nothing in it. An empty array is met, and a
/// file without any value is no evidence.
#[test]
fn pointers_that_meet_nothing_are_known() {
    let unmet = |format: &str, records: &str, document: &str| {
        let dataset = |name: &str, more: &str| {
            let text = format!(
                "name = '{name}'\nfiles = 'orders'\n{more}\n\
                 columns = [{{name = 'x', type = 'text', required = false}}]"
            );
            toml::from_str(&text).unwrap()
        };
        let more = format!("also = true\nformat = '{format}'\nrecords = '{records}'");
        let all = vec![
            dataset(
                "own",
                &format!("format = '{format}'\nrecords = '/data/orders'"),
            ),
            dataset("items", &more),
        ];
        let datasets = Datasets::new(all).unwrap();
        let of = datasets.of_file(b"orders.json", None).unwrap();
        let plans = cut_each(document.as_bytes(), &of, NO_LIMITS).unwrap();
        let unmet = of.unmet(&plans);
        let names = unmet.iter().map(|dataset| dataset.name.clone());
        names.collect::<Vec<_>>().join(" ")
    };
    let orders = r#"{"data":{"orders":[{"items":[{"x":"a"}]},{"items":[]}]}}"#;
    for (records, document, expected) in [
        ("/data/orders/*/items", orders, ""),
        ("/data/order/*/items", orders, "items"),
        ("/data/orders/*/item", orders, "items"),
        ("/data/items", orders, "items"),
        ("/data/orders/5/items", orders, "items"),
        (
            "/data/orders/*/items",
            r#"{"data":{"orders":[{"items":[]}]}}"#,
            "",
        ),
        ("/data/orders/*/items", r#"{"data":{"orders":[]}}"#, ""),
        (
            "/data/items",
            r#"{"data":{"orders":[{"x":"a"}],"items":[]}}"#,
            "",
        ),
        (
            "/data/items",
            r#"{"data":{"orders":[{"x":"a"}],"items":{"x":"a"}}}"#,
            "items",
        ),
        (
            "/data/items",
            r#"{"data":{"order":[{"x":"a"}],"items":[{"x":"a"}]}}"#,
            "own",
        ),
        ("/data/items", "", ""),
    ] {
        assert_eq!(
            unmet("auto", records, document),
            expected,
            "{records}: {document}"
        );
    }
    let lines = format!("{orders}\n{orders}");
    for (records, document, expected) in [
        ("/data/orders/*/items", &*lines, ""),
        ("/data/order/*/items", &lines, "items"),
        (
            "/data/items",
            r#"{"data":{"orders":[],"items":[]}}{"data":{"orders":[]}}"#,
            "",
        ),
        ("/data/items", r#"{"data":{"orders":[]}}"#, "items"),
        ("/data/items", "[][]", ""),
    ] {
        let found = unmet("sequence", records, document);
        assert_eq!(found, expected, "{records}: {document}");
    }
}
