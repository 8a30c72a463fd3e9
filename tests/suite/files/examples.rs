//! The definitions in `examples/datasets`: each one loads the sample beside it, and `config dataset`
//! proposes a definition like it.
//!
//! `rows.ndjson` has the rows that the sample must become, an array of texts for each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

/// One directory of `examples/datasets`.
struct Example {
    definition: String,
    /// The dataset in the definition.
    dataset: toml::Table,
    samples: Vec<PathBuf>,
    rows: Vec<Vec<Option<String>>>,
}

impl Example {
    fn columns(&self) -> impl Iterator<Item = &toml::Table> {
        let columns = self.dataset["columns"].as_array().unwrap();
        columns.iter().map(|column| column.as_table().unwrap())
    }

    fn name(&self) -> &str {
        text(&self.dataset, "name")
    }
}

fn text<'a>(table: &'a toml::Table, key: &str) -> &'a str {
    table.get(key).map_or("", |value| value.as_str().unwrap())
}

fn datasets(definition: &str) -> Vec<toml::Table> {
    let settings: toml::Table = toml::from_str(definition).unwrap();
    let datasets = settings["datasets"].as_array().unwrap();
    datasets
        .iter()
        .map(|dataset| dataset.as_table().unwrap().clone())
        .collect()
}

fn examples() -> Vec<Example> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/datasets");
    let example = |name: &String| {
        let dir = root.join(name);
        let definition = fs::read_to_string(dir.join("dataset.toml")).unwrap();
        let rows = fs::read_to_string(dir.join("rows.ndjson")).unwrap();
        let own = ["dataset.toml", "rows.ndjson"];
        let samples = names(&dir)
            .into_iter()
            .filter(|name| !own.contains(&name.as_str()));
        Example {
            dataset: datasets(&definition).swap_remove(0),
            samples: samples.map(|name| dir.join(name)).collect(),
            rows: rows
                .lines()
                .map(|row| serde_json::from_str(row).unwrap())
                .collect(),
            definition,
        }
    };
    names(&root).iter().map(example).collect()
}

/// Copies the samples into a directory, which is loaded in place.
fn archive<'a>(pair: &Pair, examples: impl IntoIterator<Item = &'a Example>) {
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    for sample in examples.into_iter().flat_map(|example| &example.samples) {
        fs::copy(sample, archive.join(sample.file_name().unwrap())).unwrap();
    }
}

/// All definitions in one settings file, as a user might have them.
async fn each_sample_becomes_its_rows(name: &'static str) {
    let pair = Pair::new(name).await;
    let examples = examples();
    let all: Vec<&str> = examples
        .iter()
        .map(|example| example.definition.as_str())
        .collect();
    fs::write(pair.at("lemonade.toml"), all.join("\n")).unwrap();
    archive(&pair, &examples);
    pair.expect(0, &["load", "archive"]);
    for example in &examples {
        assert!(!example.rows.is_empty(), "{}", example.name());
        let column = |column: &toml::Table| match text(column, "type") {
            "binary" => format!("LOWER(HEX(`{}`))", text(column, "name")),
            _ => format!("`{}`", text(column, "name")),
        };
        let columns: Vec<String> = example.columns().map(column).collect();
        let sql = format!(
            "SELECT {} FROM {} ORDER BY id",
            columns.join(", "),
            example.name()
        );
        assert_eq!(pair.query(&sql).await, example.rows, "{}", example.name());
    }
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sample_becomes_its_rows_in_sqlite() {
    each_sample_becomes_its_rows("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sample_becomes_its_rows_in_mariadb() {
    each_sample_becomes_its_rows("memory+mysql").await;
}

/// The type of each field, without the digits of a decimal.
fn types(dataset: &toml::Table) -> BTreeMap<String, String> {
    let columns = dataset["columns"].as_array().unwrap().iter();
    columns
        .map(|column| {
            let column = column.as_table().unwrap();
            let pointer = match text(column, "field") {
                "" => format!("/{}", text(column, "name")),
                field => field.to_owned(),
            };
            let kind = text(column, "type").split('(').next().unwrap();
            (pointer, kind.to_owned())
        })
        .collect()
}

/// What `config dataset` proposes for the samples loads them without a reject, and has the types of
/// the definitions that were written by hand in at least 95 % of their columns.
#[tokio::test(flavor = "multi_thread")]
async fn proposals_load_the_samples_and_have_the_types_of_the_examples() {
    let (mut same, mut differ) = (0, Vec::new());
    for example in examples() {
        let pair = embedded().await;
        archive(&pair, [&example]);
        let samples = example.samples.iter().map(|path| path.to_str().unwrap());
        // Arrays within arrays are not searched: the user names them.
        let records = text(&example.dataset, "records");
        let named = records.contains('*').then_some(["--records", records]);
        let args: Vec<&str> = ["config", "dataset", "--name", "proposed"]
            .into_iter()
            .chain(named.into_iter().flatten())
            .chain(samples)
            .collect();
        let definition = pair.expect(0, &args);
        fs::write(pair.at("lemonade.toml"), &definition).unwrap();
        pair.expect(0, &["load", "--dataset", "proposed", "archive"]);
        let rows = pair.number("SELECT COUNT(*) FROM proposed").await;
        assert_eq!(rows, example.rows.len() as u64, "{}", example.name());
        pair.expect(0, &["verify", "--content"]);
        let proposed = types(&datasets(&definition)[0]);
        for (field, kind) in types(&example.dataset) {
            // A field that was taken apart, or kept whole, where the other was not, is no other type.
            match proposed.get(&field) {
                Some(found) if *found == kind => same += 1,
                Some(found) => differ.push(format!("{} {field}: {kind}, {found}", example.name())),
                None => assert!(
                    proposed
                        .keys()
                        .any(|other| other.starts_with(&format!("{field}/"))),
                    "{} {field}: {definition}",
                    example.name()
                ),
            }
        }
    }
    assert!(differ.len() * 20 <= same, "{same} same, {differ:?}");
}

/// `check` names the reason of each reject with what was expected and found, the columns that no
/// record fills, the fields without a column, and the arrays of a file that it cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_why_a_definition_does_not_fit() {
    let pair = embedded().await;
    let settings = "
        [[datasets]]
        name = 'trips'
        columns = [
            {name = 'trip', type = 'text', max_chars = 5}, {name = 'km', type = 'decimal(4,1)'},
            {name = 'began', type = 'timestamp', field = '/begin/time', epoch = 'ms'},
            {name = 'speed', type = 'float', field = '/spd', required = false},
        ]
    ";
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    let trip = |more: &str| format!("{{\"trip\":\"t1\",\"speed\":12345678901234567890.5,{more}}}");
    let lines = [
        trip("\"km\":\"1.5\",\"begin\":{\"time\":0}"),
        trip("\"km\":1.25,\"begin\":{\"time\":0}"),
        trip("\"km\":10000,\"begin\":{\"time\":0}"),
        trip("\"km\":1,\"begin\":{\"time\":\"01.03.2026\"}"),
        trip("\"km\":1,\"begin\":{}"),
        "{\"trip\":\"longer\",\"km\":1,\"begin\":{\"time\":0}}".to_owned(),
    ];
    let dir = pair.at("in");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("trips_1.ndjson"), lines.join("\n")).unwrap();
    let envelope = r#"{"data":{"rows":[{"trip":"t2"},{"trip":"t3"}]}}"#;
    fs::write(dir.join("trips_2.json"), envelope).unwrap();
    let checked = pair.expect(2, &["check", "in", "--rows", "2"]);
    for words in [
        "2 rejects of trips: number_range `km`: expected a number of at most 4 digits, 1 of them \
         after the point, found `1.25`\n    in/trips_1.ndjson: record 1 of trips at byte ",
        "1 reject of trips: invalid_timestamp `began`: expected a time of RFC 3339 or a number \
         (epoch = \"ms\"), found `\"01.03.2026\"`",
        "1 reject of trips: missing_field `began`: expected a time of RFC 3339 or a number (epoch = \
         \"ms\"), found nothing",
        "text_too_long `trip`: expected a text of at most 5 characters, found 6 characters: \
         `\"longer\"…`",
        "trips: NULL in each of 1 rows: `speed` (/spd)\n",
        "trips: fields that no column takes, with the number of rows: `/speed` (1)\n",
        "in/trips_2.json: unreadable: no array of records at `/trips`",
        "; the file has arrays of objects at `/data/rows` (2)\n",
        "trips: {\"trip\":\"t1\",\"km\":\"1.5\",\"began\":\"1970-01-01 00:00:00.000000\",\"speed\":null,\
         \"_rescued\":{\"speed\":12345678901234567890.5}}\n",
        "2 files, 1 of them unreadable; 6 records: 1 rows, 5 rejects\n",
    ] {
        assert!(checked.contains(words), "{words}\n{checked}");
    }
    hints_at_the_definition(&pair);
    let lines = pair.expect(2, &["check", "in", "--rows", "1", "--json"]);
    let first = lines.lines().next().unwrap();
    assert!(
        first.contains("\"row\":{\"trip\":\"t1\"") && first.contains("567890.5}"),
        "{lines}"
    );
    assert_eq!(lines.matches("\"code\":").count(), 5, "{lines}");
}

/// What a check says of values for which another definition is likely.
fn hints_at_the_definition(pair: &Pair) {
    let dir = pair.at("hints");
    fs::create_dir(&dir).unwrap();
    let item = |columns: &str| {
        format!(
            "[[datasets]]\nname = 'orders'\nrecords = '/orders'\n\
             columns = [{{name = 'no', type = 'integer', required = false}}]\n\
             [[datasets]]\nname = 'items'\nfiles = 'orders'\nalso = true\n\
             records = '/orders/*/items'\ncolumns = [{columns}]\n\
             [[datasets]]\nname = 'one'\nfiles = 'same'\n\
             columns = [{{name = 'x', type = 'text'}}]\n\
             [[datasets]]\nname = 'two'\nfiles = 'same'\ncolumns = [{{name = 'x', type = 'text'}}]\n"
        )
    };
    let seconds = "{name = 't', type = 'timestamp', epoch = 's'}";
    let none = "{name = 't', type = 'timestamp'}";
    let text = "{name = 't', type = 'text'}";
    let envelope = "{name = 't', type = 'text', envelope = '/orders/*/t'}";
    let of = |value: &str| format!("{{\"orders\":[{{\"items\":[{value}]}}]}}");
    let time = |value: &str| of(&format!("{{\"t\":{value}}}"));
    let file = "orders.json";
    for (columns, file, document, expected) in [
        (
            seconds,
            file,
            time("1772370855123"),
            "found `1772370855123`; with `epoch = \"ms\"` it is a time of our days\n",
        ),
        (
            seconds,
            file,
            time("\"1772370855123456\""),
            "found `\"1772370855123456\"`; with `epoch = \"us\"` it",
        ),
        (
            none,
            file,
            time("1772370855"),
            "; with `epoch = \"s\"` it is a time",
        ),
        (none, file, time("12"), "found `12`\n"),
        (
            none,
            file,
            time("\"it's \\\"late\\\"\""),
            "found `\"it's \\\\\"late\\\\\"\"`\n",
        ),
        (
            text,
            file,
            of("{\"u\":1}"),
            "found nothing; if a parent of the record has it: `envelope = \"/orders/*/t\"`\n",
        ),
        (
            envelope,
            file,
            of("{\"u\":1}"),
            "found nothing at /orders/*/t of the envelope\n",
        ),
        (
            text,
            file,
            "t,u\n1,2\n".to_owned(),
            "it looks like CSV, and only JSON is read",
        ),
        (
            text,
            file,
            "t\n1,2\n".to_owned(),
            "as the first character, found `t` (at byte 0)",
        ),
        (
            text,
            "same_1.json",
            of("{}"),
            "hints/same_1.json and 1 more: unreadable: its name fits the datasets `one` and `two`",
        ),
    ] {
        fs::write(pair.at("hints.toml"), item(columns)).unwrap();
        let at = dir.join(file);
        fs::write(&at, &document).unwrap();
        if file.starts_with("same") {
            fs::write(dir.join("same_2.json"), document).unwrap();
            fs::remove_file(dir.join("orders.json")).unwrap();
        }
        let checked = pair.expect(2, &["check", "hints", "--config", "hints.toml"]);
        assert!(checked.contains(expected), "{expected}\n{checked}");
    }
}
