//! Proposals for difficult records, each parsed by its proposal.

use super::*;
use crate::batch::SourceFile;
use crate::dataset::{ColumnType, EpochUnit};
use crate::parse::Parser;

/// The proposal for one file.
fn propose(file: &str) -> Proposal {
    let mut samples = Samples::new(None, u64::MAX);
    samples
        .add("a.json", file.as_bytes())
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    samples.proposal().unwrap_or_else(|| panic!("{file}"))
}

/// A column in short: its name, `?` if it is not required, its type, and what belongs to the type.
fn short(proposed: &ProposedColumn) -> String {
    let column = &proposed.column;
    let mut text = column.name.clone();
    if !column.required {
        text.push('?');
    }
    text = format!("{text} {}", column.kind);
    if let Some(unit) = column.epoch {
        text = format!("{text} {unit:?}");
    }
    if column.kind == ColumnType::Text && column.max_chars != 255 {
        text = format!("{text} {}", column.max_chars);
    }
    column
        .formats
        .iter()
        .fold(text, |text, format| format!("{text} {format}"))
}

/// How many records of the file are rejects by the proposal.
fn rejects(file: &str, proposal: &Proposal) -> usize {
    let columns: Vec<_> = proposal
        .columns
        .iter()
        .map(|proposed| proposed.column.clone())
        .collect();
    let definition = json!({
        "name": "t", "format": proposal.format, "records": proposal.records, "columns": columns,
    });
    let datasets = Datasets::new(vec![serde_json::from_value(definition).unwrap()]).unwrap();
    let dataset = datasets.by_name("t").unwrap();
    let plan = cut::cut(file.as_bytes(), dataset, LIMITS).unwrap();
    let mut parser = Parser::default();
    let source = SourceFile {
        file_no: 1,
        hash: [0; 16],
    };
    let batches = plan.chunks.iter().map(|chunk| {
        let bytes = &file.as_bytes()[chunk.start as usize..chunk.end as usize];
        let outside = cut::Outside::default();
        parser
            .parse(dataset, source, chunk, bytes, &outside)
            .rejects
            .len()
    });
    batches.sum()
}

/// The values of a field in one record after the other, and the column that takes them.
const FIELDS: [(&str, &str); 48] = [
    ("1|-9223372036854775808", "f integer"),
    ("1|null", "f? integer"),
    ("9223372036854775808|0", "f unsigned"),
    ("18446744073709551615|-1", "f decimal(24,0)"),
    ("0.1|-2.5e-3|3", "f float"),
    ("10.0|7", "f float"),
    ("0.10000000000000000001|1.5", "f decimal(27,22)"),
    ("9007199254740993|0.5", "f decimal(23,3)"),
    ("1e400|1", "f text"),
    ("true|false", "f boolean"),
    ("true|1|0", "f boolean"),
    ("true|\"FALSE\"", "f boolean"),
    ("true|2", "f text"),
    ("true|\"yes\"", "f text"),
    ("0|1", "f integer"),
    ("\"12\"|\"-7\"|5", "f integer"),
    ("\"007\"|\"12\"", "f text"),
    ("\"\"|\"12\"", "f text"),
    ("\"NaN\"|1.5", "f text"),
    ("\"123456789012\"|\"210987654321\"", "f text"),
    ("\"9.90\"|\"19.95\"", "f decimal(8,2)"),
    ("\"0.5\"|\"19.955\"", "f decimal(11,5)"),
    ("\"1e-7\"|\"2\"", "f float"),
    (
        "\"2026-03-01T13:14:15Z\"|\"2026-03-01 13:14:15.123456+01\"",
        "f timestamp",
    ),
    ("\"2026-03-01T13:14:15Z\"|\"\"", "f text"),
    ("\"2026-03-01\"|\"1999-12-31\"", "f date"),
    ("\"2026-03-01\"|\"0001-01-01\"", "f text"),
    (
        "\"2026-03-01\"|\"2026-03-01T00:00:00Z\"",
        "f timestamp %Y-%m-%d",
    ),
    ("\"13:14\"|\"13:14:15.5\"", "f time"),
    ("\"01:14 PM\"", "f time %I:%M %p"),
    (
        "\"01/Mar/2026:13:14:15 +0200\"",
        "f timestamp %d/%b/%Y:%H:%M:%S %z",
    ),
    ("\"29.02.2024\"", "f date %d.%m.%Y"),
    ("\"12/31/2026\"|\"01/02/2026\"", "f date %m/%d/%Y"),
    ("\"20260301\"", "f integer"),
    ("1772370855", "f integer"),
    ("\"AAECAwQFBgcI/w==\"|\"aGVsbG8gd29ybGQh\"", "f binary"),
    ("\"0d1a26e67d8f5eaf1f6ba5c5\"", "f text"),
    ("[]|[1]", "f json"),
    ("[{\"a\":1}]|null", "f? json"),
    ("{}", "f json"),
    ("{\"a\":1}|2", "f json"),
    ("{\"a\":1}|{\"b\":\"x\"}", "f_a? integer, f_b? text"),
    ("{\"a\":{\"b\":1}}|{\"a\":{}}", "f_a_b? integer"),
    ("{\"a/b\":1,\"~\":2}", "f_a_b integer, f__ integer"),
    (
        "{\"$date\":\"2026-03-01T13:14:15Z\"}|{\"$date\":\"2026-03-01T13:14:16Z\"}",
        "f timestamp",
    ),
    ("{\"$date\":1772370855123}", "f timestamp Ms"),
    ("{\"$numberDouble\":\"1.5\"}", "f float"),
    (
        "{\"$numberLong\":\"1234567890123\"}|{\"$numberLong\":\"1234567890124\"}",
        "f integer",
    ),
];

#[test]
fn each_field_gets_the_type_that_takes_all_of_its_values() {
    for (values, expected) in FIELDS {
        let record = |value: &str| format!("{{\"f\":{value}}}");
        let records: Vec<String> = values.split('|').map(record).collect();
        // One object alone is a document, and the same record.
        for file in [records.join("\n"), format!("[{}]", records.join(","))] {
            let proposal = propose(&file);
            let columns: Vec<String> = proposal.columns.iter().map(short).collect();
            assert_eq!(columns.join(", "), expected, "{file}");
            assert_eq!(rejects(&file, &proposal), 0, "{file}");
        }
    }
}

/// The name of a field decides where its values leave a doubt.
#[test]
fn a_name_decides_between_a_number_and_a_time_or_a_flag() {
    for (name, value, expected) in [
        ("eventTime", "1772370855", "timestamp S"),
        ("event_time", "\"1772370855123\"", "timestamp Ms"),
        ("timestampUs", "1772370855123456", "timestamp Us"),
        ("timeUnixNano", "\"1772370855123456789\"", "timestamp Ns"),
        ("created_at", "1772370855.5", "timestamp S"),
        ("order_date", "20513", "date Days"),
        ("startDate", "\"20260301\"", "date %Y%m%d"),
        ("format", "1772370855", "integer"),
        ("apiVersion", "\"1.09\"", "text"),
        ("api_version", "\"2026-03-01\"", "text"),
    ] {
        let file = format!("{{\"{name}\":{value}}}\n{{\"{name}\":{value}}}");
        let proposal = propose(&file);
        assert_eq!(short(&proposal.columns[0]), format!("{name} {expected}"));
        assert_eq!(rejects(&file, &proposal), 0, "{file}");
    }
    let flags = propose("{\"is_open\":0}\n{\"is_open\":1}");
    assert_eq!(short(&flags.columns[0]), "is_open boolean");
}

#[test]
fn lengths_have_headroom() {
    for (chars, expected) in [
        (127, "f text"),
        (128, "f text 1000"),
        (9_000, "f text 1000000"),
        (600_000, "f text 16777216"),
    ] {
        let file = format!("{{\"f\":\"{}\"}}\n{{\"f\":\"\"}}", "é".repeat(chars));
        let proposal = propose(&file);
        assert_eq!(short(&proposal.columns[0]), expected);
        assert_eq!(rejects(&file, &proposal), 0);
    }
}

#[test]
fn an_object_whose_keys_are_values_is_one_column() {
    let record = |at: u32| format!("{{\"by_id\":{{\"k{at}\":{at}}}}}\n");
    let file: String = (0..50).map(record).collect();
    let columns: Vec<String> = propose(&file).columns.iter().map(short).collect();
    assert_eq!(columns, ["by_id json"]);
}

#[test]
fn the_number_of_columns_has_a_limit() {
    let member = |at: u32| format!("\"f{at}\":{at}");
    let members: Vec<String> = (0..200).map(member).collect();
    let file = format!("{{{}}}", members.join(","));
    let proposal = propose(&file);
    assert_eq!(proposal.columns.len(), 150);
    assert!(
        proposal
            .notes
            .iter()
            .any(|note| note.starts_with("50 more")),
        "{proposal:?}"
    );
    assert_eq!(rejects(&file, &proposal), 0);
}

#[test]
fn files_of_one_dataset_are_examined_together() {
    let mut samples = Samples::new(None, u64::MAX);
    let files = [
        r#"{"data":[]}"#,
        r#"{"data":[{"a":1,"note":"as long as the rest"}]}"#,
        "",
        r#"{"data":[{"a":"x"},{"a":2,"note":null}]}"#,
    ];
    for file in files {
        samples.look(file.as_bytes()).unwrap();
    }
    for file in files {
        samples.add("a.json", file.as_bytes()).unwrap();
    }
    let proposal = samples.proposal().unwrap();
    assert_eq!((proposal.records.as_str(), proposal.examined), ("/data", 3));
    let columns: Vec<String> = proposal.columns.iter().map(short).collect();
    assert_eq!(columns, ["a text", "note? text"]);
    let other = samples
        .look(br#"{"rows":[{"a":1}]}"#)
        .unwrap_err()
        .to_string();
    assert!(
        other.contains("`/rows`") && other.contains("`/data`"),
        "{other}"
    );
}

#[test]
fn records_that_no_definition_takes_are_counted_and_left_out() {
    let file = "{\"a\":1}\n{broken\n[1]\n{\"a\":\"\\ud800\"}\n{\"a\":2}\n";
    let proposal = propose(file);
    assert_eq!((proposal.examined, rejects(file, &proposal)), (2, 3));
    assert_eq!(short(&proposal.columns[0]), "a integer");
    assert!(
        proposal
            .notes
            .iter()
            .any(|note| note.starts_with("3 records are rejects"))
    );
    let mut few = Samples::new(None, 1);
    few.look(file.as_bytes()).unwrap();
    few.add("a.json", file.as_bytes()).unwrap();
    let few = few.proposal().unwrap();
    assert_eq!(few.notes, ["4 more records were not examined"]);
    let mut none = Samples::new(None, u64::MAX);
    none.add("a.json", b"[]").unwrap();
    assert_eq!(none.proposal(), None);
}

#[test]
fn the_units_of_an_epoch_are_apart() {
    for (number, unit) in [
        ("1772370855", EpochUnit::S),
        ("1772370855123", EpochUnit::Ms),
    ] {
        let proposal = propose(&format!("{{\"n\":{number}}}"));
        let note = format!("`epoch = \"{}\"`", unit.as_str());
        assert!(proposal.columns[0].notes[0].contains(&note), "{proposal:?}");
    }
}

/// What a proposal says of a column that is text because of a few values.
#[test]
fn a_few_values_of_another_type_are_named() {
    let values = |usual: &str, odd: &[(usize, &str)]| {
        let value = |at: usize| {
            let odd = odd.iter().find(|(odd, _)| *odd == at);
            odd.map_or(usual, |(_, value)| value).to_owned()
        };
        let record = |at| format!("{{\"f\":{}}}", value(at));
        (0..40).map(record).collect::<Vec<_>>().join("\n")
    };
    let null = "required = false, on_error = \"null\"` keeps the others typed";
    for (usual, odd, expected) in [
        (
            "\"9.90\"",
            &[(12, "\"n/a\""), (30, "\"\"")][..],
            Some(format!(
                "text, since 2 of 40 values are no decimal(7,2): \"n/a\" in a.json, record 12; \
                 `type = \"decimal(7,2)\", {null}"
            )),
        ),
        (
            "7",
            &[(0, "\"none\"")],
            Some(format!(
                "text, since 1 of 40 values is no integer: \"none\" in a.json, record 0; \
                 `type = \"integer\", {null}"
            )),
        ),
        (
            "\"2026-03-01T13:14:15Z\"",
            &[(39, "\"\"")],
            Some(format!(
                "text, since 1 of 40 values is no timestamp: \"\" in a.json, record 39; \
                 `type = \"timestamp\", {null}"
            )),
        ),
        (
            "\"29.02.2024\"",
            &[(1, "\"-\"")],
            Some(format!(
                "text, since 1 of 40 values is no date: \"-\" in a.json, record 1; \
                 `type = \"date\", formats = [\"%d.%m.%Y\"], {null}"
            )),
        ),
        // Texts are texts, whatever some of them look like.
        ("\"red\"", &[(3, "\"7\""), (4, "\"2026-03-01\"")], None),
        ("\"7\"", &[], None),
    ] {
        let file = values(usual, odd);
        let proposal = propose(&file);
        let notes = &proposal.columns[0].notes;
        let note = notes.iter().find(|note| note.starts_with("text, since"));
        assert_eq!(note, expected.as_ref(), "{usual} {odd:?}");
        assert_eq!(rejects(&file, &proposal), 0, "{usual} {odd:?}");
        let Some(note) = note else { continue };
        // The column as the note has it takes all of them.
        let (_, keys) = note.split_once("; `").unwrap();
        let (keys, _) = keys.split_once('`').unwrap();
        let mut typed = proposal.clone();
        typed.columns[0].column = toml::from_str(&format!(
            "name = \"f\"\nfield = \"/f\"\n{}",
            keys.replace(", formats", "\nformats")
                .replace(", required", "\nrequired")
                .replace(", on_error", "\non_error")
        ))
        .unwrap();
        assert_eq!(rejects(&file, &typed), 0, "{note}");
    }
    // More than a quarter.
    let few = "{\"f\":1}\n{\"f\":\"x\"}\n{\"f\":2}";
    assert_eq!(propose(few).columns[0].notes, [""; 0]);
}

/// Where the arrays of a field are, if their elements could be records.
#[test]
fn arrays_that_could_be_records_are_found() {
    let order = r#"{"no":1,"note":"as long as the items","items":[{"sku":"a"}]}"#;
    for (file, expected) in [
        (order.to_owned(), Some("/items")),
        (format!("[{order},{order}]"), Some("/*/items")),
        (format!("{order}\n{order}"), Some("/items")),
        (
            format!("{{\"data\":{{\"orders\":[{order},{order}]}}}}"),
            Some("/data/orders/*/items"),
        ),
        (order.replace("{\"sku\":\"a\"}", "1"), None),
    ] {
        let mut samples = Samples::new(None, u64::MAX);
        samples.look(file.as_bytes()).unwrap();
        samples.add("a.json", file.as_bytes()).unwrap();
        let proposal = samples.proposal().unwrap();
        let items = proposal
            .columns
            .iter()
            .find(|it| it.column.name == "items")
            .unwrap();
        assert_eq!(items.records.as_deref(), expected, "{file}");
        let Some(records) = expected else { continue };
        // The command that is proposed finds them.
        let mut items = Samples::new(Some(records.to_owned()), u64::MAX);
        items.look(file.as_bytes()).unwrap();
        items.add("a.json", file.as_bytes()).unwrap();
        let proposal = items.proposal().unwrap();
        let columns: Vec<String> = proposal.columns.iter().map(short).collect();
        assert_eq!(columns, ["sku text"], "{file}");
        assert_eq!(rejects(&file, &proposal), 0, "{file}");
    }
}
