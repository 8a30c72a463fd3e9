//! Tables of inputs: files that are documents, files that are lines, and files that are refused.

use super::*;

/// The shape of a file, in the words of docs/datasets.md: `document`, `lines` or `sequence` with the
/// number of records, `nothing` without records, or the place of the error.
pub(super) fn shape(dataset: &Dataset, document: &str) -> String {
    match cut(document.as_bytes(), dataset, NO_LIMITS) {
        Ok(Plan { records, chunks }) => match chunks.first().map(|chunk| chunk.layout) {
            None => "nothing".to_owned(),
            Some(Layout::Array | Layout::Elements(_) | Layout::Members(_)) => {
                format!("document {records}")
            }
            Some(Layout::Lines) => format!("lines {records}"),
            Some(Layout::Values | Layout::Sequence) => format!("sequence {records}"),
        },
        Err(Unreadable::Incomplete { .. }) => "incomplete".to_owned(),
        Err(Unreadable::Malformed { offset, .. }) => format!("refused at {offset}"),
    }
}

#[test]
fn the_first_record_does_not_decide_the_shape() {
    let lines = defined("format = 'lines'");
    let firsts = [
        "{\"id\":1,,}",
        "{\"id\":tru}",
        "{\"id\":1",
        "{\"id\":1,",
        "{\"id\":{\"x\":1}",
        "{\"id\":[1}",
        "{\"id\":1}}",
        "{\"id\":1}]",
        "{\"id\":1} x",
        "{\"id\":\"x",
        "{\"id\":\"x\\",
        "{",
        "}",
        "]",
        ",",
        "tru",
        "true",
        "null",
        "42",
        "\"text\"",
        "\"text",
        "not JSON",
        "[]",
        "[1,2]",
        "[1 2]",
        "[\"a",
        "{}",
        "{\"x\":1}",
        "{\"id\":1,\"data\":{\"items\":[1,2]}}",
        "{\"id\":1,\"data\":{\"items\":[{}]}}",
        "{\"id\":1,\"data\":{\"items\":[1,2]},,}",
    ];
    let mut wrong = Vec::new();
    for first in firsts {
        for rest in ["{\"id\":2}\n", "{\"id\":2}\n{\"id\":3}\nbad\n"] {
            let document = format!("{first}\n{rest}");
            let expected = format!("lines {}", 1 + rest.lines().count());
            for dataset in [&*ITEMS, &lines] {
                let found = shape(dataset, &document);
                if found != expected {
                    wrong.push(format!("{document:?}: {found}, not {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn text_outside_of_records_is_json_or_refuses_the_file() {
    let around = |before: &str, records: &str, after: &str| {
        format!("{{{before}\"data\":{{\"items\":{records}}}{after}}}")
    };
    let good = "[{\"id\":1},{\"id\":2}]";
    let mut wrong = Vec::new();
    for (document, expected) in [
        (around("", good, ""), "document 2"),
        (
            around("\"x\":[1,{\"y\":null}],", good, ",\"z\":-1.5e3"),
            "document 2",
        ),
        // Bad records with certain bounds.
        (around("", "[tru]", ""), "document 1"),
        (around("", "[{\"a\":1,,}]", ""), "document 1"),
        (around("", "[{\"a\":1}, nul ,{\"a\":2}]", ""), "document 3"),
        (around("", "[{\"a\":[1}},{\"a\":2}]", ""), "document 2"),
        (around("", "[{\"a\":1},,{\"a\":2},]", ""), "document 4"),
        // Between the records.
        (around("", "[{}{}]", ""), "refused at 20"),
        (around("", "[{} {}]", ""), "refused at 21"),
        (around("", "[{};{}]", ""), "refused at 20"),
        (around("", "[{}x,{}]", ""), "refused at 20"),
        (around("", "[x{},{}]", ""), "refused at 19"),
        (around("", "[{}\"x\"]", ""), "refused at 20"),
        (around("", "[\"a\" \"b\"]", ""), "refused at 22"),
        (around("", "[\"a\"\"b\"]", ""), "refused at 21"),
        (around("", "[1 2]", ""), "refused at 20"),
        (around("", "[{},[1] 2]", ""), "refused at 25"),
        // A bracket is missing, so that the next record would become a part of this one.
        (around("", "[{\"a\":[1},{\"a\":2}]]", ""), "refused at 18"),
        // Outside of the array.
        (around("tru,", good, ""), "refused at 1"),
        (around("\"x\":tru,", good, ""), "refused at 5"),
        (around("\"x\":01,", good, ""), "refused at 5"),
        (around("\"x\":[1,],", good, ""), "refused at 8"),
        (around("\"x\" 1,", good, ""), "refused at 5"),
        (around("\"x\":\"\\q\",", good, ""), "refused at 6"),
        (around("\"x\":\"a\nb\",", good, ""), "refused at 7"),
        (around(",", good, ""), "refused at 1"),
        (around("", good, ","), "refused at 38"),
        (around("", good, " x"), "refused at 38"),
        (around("", good, ",\"x\":NaN"), "refused at 42"),
        (around("", &format!("{good} x"), ""), "refused at 37"),
        // After the end.
        (format!("{good} x"), "refused at 20"),
        (format!("{good}{good}"), "refused at 19"),
        (format!("{good}\nx\n"), "refused at 20"),
        (format!("{}x", around("", good, "")), "refused at 38"),
        (format!("{}\nx\n", around("", good, "")), "refused at 39"),
        (
            format!("{}\n{{\"id\":1}}\n", around("", good, "")),
            "refused at 39",
        ),
    ] {
        let found = shape(&ITEMS, &document);
        if found != expected {
            wrong.push(format!("{document}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let mut document = around("\"x\":\"?\",", good, "").into_bytes();
    document[6] = 0xff;
    let error = cut(&document, &ITEMS, NO_LIMITS).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not UTF-8 outside of the records (at byte 6)"),
        "{error}"
    );
}

/// A value where an array of records is expected, beside an array of records of another dataset: it
/// may be a record, so it is not left out.
#[test]
fn a_value_in_the_place_of_records_beside_other_records_is_refused() {
    let dataset = |name: &str, records: &str| {
        let text = format!(
            "name = '{name}'\nrecords = '{records}'\n[[columns]]\nname = 'n'\ntype = 'integer'\n"
        );
        toml::from_str::<Dataset>(&text).unwrap()
    };
    let datasets = Datasets::new(vec![dataset("one", "/one"), dataset("two", "/in/two")]).unwrap();
    let of = datasets.of_file(b"one.json", None).unwrap();
    for (document, expected) in [
        // The file's own dataset: any value but null.
        (
            r#"{"one":{"n":1},"in":{"two":[{"n":2}]}}"#,
            Some("`one` at `/one`, found `{`"),
        ),
        (
            r#"{"one":7,"in":{"two":[{"n":2}]}}"#,
            Some("`one` at `/one`, found `7`"),
        ),
        (
            r#"{"one":[{"n":1}],"one":{"n":3}}"#,
            Some("`one` at `/one`, found `{`"),
        ),
        (r#"{"one":null,"in":{"two":[{"n":2}]}}"#, None),
        // Another dataset: an object with one of its fields.
        (
            r#"{"one":[{"n":1}],"in":{"two":{"n":2}}}"#,
            Some("`two` at `/in/two`, found `{`"),
        ),
        (
            r#"{"one":[{"n":1}],"in":{"two":{"x":{"n":2}}}}"#,
            Some("`two` at `/in/two`"),
        ),
        (r#"{"one":[{"n":1}],"in":{"two":{"count":2}}}"#, None),
        (r#"{"one":[{"n":1}],"in":{"two":"n"}}"#, None),
        (r#"{"one":[{"n":1}],"in":7}"#, None),
        // One record is no envelope.
        (r#"{"n":1,"in":{"two":{"n":2}}}"#, None),
    ] {
        let found = cut_each(document.as_bytes(), &of, NO_LIMITS).map(|_| ());
        match (found, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) if error.to_string().contains(part) => {}
            (found, _) => panic!("{document}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn the_format_of_the_dataset_decides_the_shape() {
    let (document, lines) = (defined("format = 'document'"), defined("format = 'lines'"));
    let none = defined("records = ''");
    let two = "{\"id\":1}\n{\"id\":2}\n";
    let envelope = "{\"data\":{\"items\":[{},{}]}}";
    assert_eq!(shape(&document, two), "refused at 9");
    assert_eq!(shape(&document, envelope), "document 2");
    assert_eq!(shape(&lines, two), "lines 2");
    assert_eq!(shape(&lines, envelope), "lines 1");
    assert_eq!(shape(&lines, "[{},\n{}]\n"), "lines 2");
    assert_eq!(shape(&none, envelope), "document 1");
    assert_eq!(shape(&none, "{}"), "document 1");
    assert_eq!(shape(&none, "[{},{}]"), "document 2");
    assert_eq!(shape(&none, "{\"items\":[],,}"), "document 1");
    for dataset in [&document, &lines, &none, &*ITEMS] {
        for empty in ["", " \r\n\t", "\u{feff}"] {
            assert_eq!(shape(dataset, empty), "nothing");
        }
    }
}

#[test]
fn one_line_is_the_record_that_it_is_among_more_lines() {
    let columns = "columns = [{name = 'x', field = '/id', type = 'integer'}]";
    let definition = &format!("name = 'items'\nrecords = '/m'\n{columns}");
    let datasets = Datasets::new(vec![toml::from_str(definition).unwrap()]).unwrap();
    let dataset = datasets.by_name("items").unwrap();
    for (line, alone, twice, with_bad) in [
        (r#"{"id":1}"#, "document 1", "lines 2", "lines 2"),
        (r#"{"id":1}{"id":"#, "incomplete", "lines 4", "lines 3"),
        (r#"{"id":1,"m":[]}"#, "document 1", "lines 2", "lines 2"),
        (r#"{"id":1,"m":5}"#, "document 1", "lines 2", "lines 2"),
        // Each element of the array becomes a row or a reject.
        (r#"{"id":1,"m":[1]}"#, "document 1", "lines 2", "lines 2"),
        // An envelope with records, or without a field of the dataset.
        (
            r#"{"id":1,"m":[{}]}"#,
            "document 1",
            "lines 2",
            "refused at 18",
        ),
        (
            r#"{"x":1,"m":[]}"#,
            "nothing",
            "refused at 15",
            "refused at 15",
        ),
    ] {
        assert_eq!(shape(dataset, line), alone, "{line}");
        let lines = format!("{line}\n{line}\n");
        assert_eq!(shape(dataset, &lines), twice, "{lines}");
        let lines = format!("{line}\nbad\n");
        assert_eq!(shape(dataset, &lines), with_bad, "{lines}");
    }
}

#[test]
fn a_pointer_may_have_an_index() {
    let mut wrong = Vec::new();
    for (pointer, document, expected) in [
        (
            "/data/1/x",
            r#"{"data":[{"x":[9]},{"x":[{},{}]},{"x":[7]}]}"#,
            "document 2",
        ),
        (
            "/data/1/x",
            r#"{"data":{"1":{"x":[{},{},{}]}}}"#,
            "document 3",
        ),
        ("/data/1/x", r#"{"data":[{"x":[9]}]}"#, "refused at 0"),
        ("/data/1/x", r#"{"data":[{},{"x":{}}]}"#, "refused at 17"),
        ("/data/1/x", r#"{"data":[{},{"x":[1]} 2]}"#, "refused at 22"),
        // The index is the last segment.
        ("/d/0", r#"{"d":[[{"id":4}],1],"x":[]}"#, "document 1"),
        ("/d/1", r#"{"d":[{"id":4},[{},{}]]}"#, "document 2"),
        ("/d/0", r#"{"d":[[{"id":4}],tru]}"#, "refused at 17"),
        ("/d/1", r#"{"d":[tru,[{"id":4}]]}"#, "refused at 6"),
        ("/d/0", r#"{"d":[[{"id":4}]],"z":tru}"#, "refused at 22"),
        ("/d/0", r#"{"z":tru,"d":[[{"id":4}]]}"#, "refused at 5"),
        ("/d/0", r#"{"d":[[{"id":4}] [1]]}"#, "refused at 17"),
        ("/d/0", r#"{"d":[[{"id":4}],]}"#, "refused at 17"),
        (
            "/d/0",
            r#"{"d":[[{"id":4}]],"d":[[{"id":5}]]}"#,
            "refused at 23",
        ),
        (
            "/d/0",
            r#"{"\u0064":[[{"id":4}]],"z":tru}"#,
            "refused at 27",
        ),
        ("/d/0", r#"{"z":tru,"\u0064":[[{"id":4}]]}"#, "refused at 5"),
        ("/d/0/x", r#"{"d":[{"x":[{"id":4}]},tru]}"#, "refused at 23"),
        // The index is the first segment.
        ("/0", r#"[[{"id":4},{"id":5}]]"#, "document 2"),
        ("/1", r#"[{"id":3},[{"id":4},{"id":5}],7]"#, "document 2"),
        ("/0/x", r#"[{"x":[{"id":4}]}, {"x":[]}]"#, "document 1"),
        ("/0", r#"[[{"id":4}],tru]"#, "refused at 12"),
        ("/0", r#"[tru,[{"id":4}]]"#, "refused at 1"),
        ("/0", r#"[{"id":4}]"#, "refused at 1"),
        ("/1", r#"[[{"id":4}]]"#, "refused at 0"),
        ("/0", r#"{"id":4}"#, "document 1"),
    ] {
        let dataset = defined(&format!("records = '{pointer}'"));
        let found = shape(&dataset, document);
        if found != expected {
            wrong.push(format!("{pointer} {document}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn arrays_of_several_datasets_are_all_cut() {
    let dataset = |name: &str| {
        let definition =
            format!("name = '{name}'\ncolumns = [{{name = 'x', field = '/id', type = 'text'}}]");
        toml::from_str(&definition).unwrap()
    };
    let datasets = Datasets::new(vec![dataset("one"), dataset("two"), dataset("three")]).unwrap();
    let found = |document: &str| {
        let own = datasets.by_name("one").unwrap();
        let of = datasets.of_file(b"name", Some(own)).unwrap();
        let plans = cut_each(document.as_bytes(), &of, NO_LIMITS)?;
        for (dataset, plan) in &plans {
            let again = cut_one(document.as_bytes(), dataset, &datasets, b"name", NO_LIMITS);
            assert_eq!(again.as_ref(), Ok(plan), "{} of {document}", dataset.name);
        }
        let text = |(dataset, plan): (Arc<Dataset>, Plan)| {
            let chunk = plan.chunks.first().map_or("", |chunk| {
                assert_eq!((chunk.first_ordinal, chunk.records), (0, plan.records));
                &document[chunk.start as usize..chunk.end as usize]
            });
            format!("{}: {chunk}", dataset.name)
        };
        Ok::<_, Unreadable>(plans.into_iter().map(text).collect::<Vec<_>>().join("; "))
    };
    let cases = [
        ("{\"one\":[1,2],\"two\":[3]}", "one: 1,2; two: 3"),
        (
            "{\"two\":[3],\"x\":{\"three\":[9]},\"three\":[4],\"one\":[]}",
            "one: ; two: 3; three: 4",
        ),
        ("{\"one\":[1],\"two\":[],\"three\":{}}", "one: 1"),
        (
            "{\"one\":[tru],\"two\":[2,],\"three\":[{x}]}",
            "one: tru; two: 2,; three: {x}",
        ),
        ("{\"two\":[3]}", "two: 3"),
        // A record may have a member with the name of another dataset.
        (
            "{\"id\":5,\"two\":[3]}",
            "one: {\"id\":5,\"two\":[3]}; two: 3",
        ),
        ("{\"id\":5,\"two\":\"x\"}", "one: {\"id\":5,\"two\":\"x\"}"),
        ("[1]", "one: 1"),
    ];
    for (document, expected) in cases {
        assert_eq!(found(document), Ok(expected.to_owned()), "{document}");
    }
    for broken in [
        "{\"one\":[1],\"two\":[3 4]}",
        "{\"one\":[1],\"two\":[3],\"two\":[4]}",
    ] {
        assert!(
            matches!(found(broken), Err(Unreadable::Malformed { .. })),
            "{broken}"
        );
    }
    let short = found("{\"one\":[1],\"two\":[3");
    assert!(
        matches!(short, Err(Unreadable::Incomplete { .. })),
        "{short:?}"
    );
}

/// A file that belongs to the dataset `one`, and that the datasets `two`, `same` and `deep` take as
/// well.
#[test]
fn each_dataset_that_takes_a_file_as_well_cuts_it_by_its_own_definition() {
    let dataset = |name: &str, more: &str| {
        let columns = "columns = [{name = 'x', field = '/id', type = 'text'}]";
        toml::from_str(&format!("name = '{name}'\n{more}\n{columns}")).unwrap()
    };
    let datasets = |more: &str| {
        let also = |name: &str, records: &str| {
            dataset(
                name,
                &format!("files = 'one'\nalso = true\nrecords = '{records}'"),
            )
        };
        let last = dataset("last", more);
        let all = vec![
            also("deep", "/one/1/x"),
            also("same", "/one"),
            also("two", "/two"),
            dataset("one", ""),
            last,
        ];
        Datasets::new(all).unwrap()
    };
    let found = |datasets: &Datasets, document: &str| {
        let of = datasets.of_file(b"one.json", None).unwrap();
        let plans = cut_each(document.as_bytes(), &of, NO_LIMITS)?;
        let text = |(dataset, plan): (Arc<Dataset>, Plan)| {
            let again = cut_one(document.as_bytes(), &dataset, datasets, b"one", NO_LIMITS);
            assert_eq!(again.as_ref(), Ok(&plan), "{} of {document}", dataset.name);
            let chunk = plan.chunks.first();
            let chunk = chunk.map(|chunk| &document[chunk.start as usize..chunk.end as usize]);
            format!("{}: {}", dataset.name, chunk.unwrap_or_default())
        };
        Ok::<_, Unreadable>(plans.into_iter().map(text).collect::<Vec<_>>().join("; "))
    };
    let all = datasets("");
    for (document, expected) in [
        (
            r#"{"one":[1,2],"two":[3],"last":[4]}"#,
            "one: 1,2; last: 4; same: 1,2; two: 3",
        ),
        (
            r#"{"one":[1,{"x":[{"id":7}]}]}"#,
            r#"one: 1,{"x":[{"id":7}]}; deep: {"id":7}; same: 1,{"x":[{"id":7}]}"#,
        ),
        // Of an envelope only arrays are parts, whatever fields it has. With an empty array and all
        // required fields, it is a record.
        (r#"{"one":[1],"id":7}"#, "one: 1; same: 1"),
        (r#"{"one":[],"ID":7}"#, "one: ; same: "),
        (
            r#"{"one":[],"id":7}"#,
            r#"one: {"one":[],"id":7}; deep: {"one":[],"id":7}; same: {"one":[],"id":7}; two: {"one":[],"id":7}"#,
        ),
        (r#"{"two":[3]}"#, "two: 3"),
        // One record of each that takes a record, and the array of the one that has it.
        (
            r#"{"id":5,"two":[3]}"#,
            r#"one: {"id":5,"two":[3]}; deep: {"id":5,"two":[3]}; same: {"id":5,"two":[3]}; two: 3"#,
        ),
        (
            r#"{"one":[1],"two":[{x}],"last":[tru]}"#,
            "one: 1; last: tru; same: 1; two: {x}",
        ),
        (
            r#"{"id":5}"#,
            r#"one: {"id":5}; deep: {"id":5}; same: {"id":5}; two: {"id":5}"#,
        ),
        ("[1,2]", "one: 1,2; deep: 1,2; same: 1,2; two: 1,2"),
        (
            "{\"id\":1}\n{\"id\":2}",
            "one: {\"id\":1}\n{\"id\":2}; deep: {\"id\":1}\n{\"id\":2}; \
             same: {\"id\":1}\n{\"id\":2}; two: {\"id\":1}\n{\"id\":2}",
        ),
        ("", "one: ; deep: ; same: ; two: "),
    ] {
        assert_eq!(found(&all, document), Ok(expected.to_owned()), "{document}");
    }
    // A pointer that leads through the records of another dataset needs them to be JSON.
    let through = found(&all, r#"{"one":[tru]}"#).unwrap_err().to_string();
    assert!(
        through.contains("as a file of `deep`: not JSON"),
        "{through}"
    );
    let plain = datasets("records = ''");
    let of = plain.of_file(b"last.json", None).unwrap();
    let plans = cut_each(br#"{"id":5,"one":[1]}"#, &of, NO_LIMITS).unwrap();
    assert_eq!(plans.len(), 1, "without a pointer no object is an envelope");
    let document = datasets("files = 'one'\nalso = true\nformat = 'document'");
    let refused = found(&document, "{\"id\":1}\n{\"id\":2}")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("as a file of `last`: more after the end of the document"),
        "{refused}"
    );
    let lines = datasets("files = 'one'\nalso = true\nformat = 'lines'");
    assert_eq!(
        found(&lines, "{\"one\":\n[1]}"),
        Ok("one: 1; same: 1; last: {\"one\":\n[1]}".to_owned())
    );
}

#[test]
fn a_line_of_many_records_is_cut_at_its_records() {
    let document = "{\"id\":12}".repeat(1_000);
    let limits = ChunkLimits {
        records: 300,
        bytes: 1_000,
    };
    let texts = texts(document.as_bytes(), limits).unwrap();
    assert_eq!(texts, vec![b"{\"id\":12}".to_vec(); 1_000]);
    // The second record lacks a brace, so that the third would become a part of it.
    let broken = "{\"id\":1}{\"id\":{\"x\":2}{\"id\":3}\n";
    assert_eq!(shape(&ITEMS, &format!("{{}}\n{broken}")), "refused at 11");
    assert_eq!(shape(&ITEMS, "{\"id\":1}{\"id\":2}{\"id\":"), "incomplete");
}

/// A chunk of the first records of a line had fewer of them than the whole line.
#[test]
fn the_records_of_a_line_are_the_same_in_any_chunks() {
    let lines = defined("format = 'lines'");
    for (text, expected) in [
        ("{{]]{}{[[[[[\n\"\"", "{{]]{} {[[[[[ \"\""),
        ("[1]{}{}\n", "[1]{} {}"),
        ("[1]{}\n", "[1]{}"),
        ("{}[1]{} {}{\n{}", "{}[1]{} {} { {}"),
    ] {
        for records_max in [1, 2, 3, u32::MAX] {
            let limits = ChunkLimits {
                records: records_max,
                bytes: usize::MAX,
            };
            let plan = cut(text.as_bytes(), &lines, limits).unwrap();
            let mut found = Vec::new();
            for chunk in &plan.chunks {
                let part = &text[chunk.start as usize..chunk.end as usize];
                let places = records(part.as_bytes(), chunk.layout, &lines);
                assert_eq!(
                    places.len(),
                    chunk.records as usize,
                    "{text:?} {records_max}"
                );
                found.extend(places.into_iter().map(|place| &part[place]));
            }
            assert_eq!(found.join(" "), expected, "{text:?} {records_max}");
        }
    }
}
