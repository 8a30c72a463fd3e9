//! Tables of documents and their records, and properties that hold for any bytes.

mod each;
mod sequence;
mod shapes;
mod unmet;

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::syntax::trim;

/// The records are in `/data/items`, or are objects with one of the fields `a`, `b` and `id`.
static ITEMS: LazyLock<Arc<Dataset>> = LazyLock::new(|| defined(""));

fn defined(more: &str) -> Arc<Dataset> {
    let definition = format!(
        "name = 'items'\n{}\n{more}\ncolumns = [{}]",
        if more.contains("records") {
            ""
        } else {
            "records = '/data/items'"
        },
        ["a", "b", "id"]
            .map(|key| format!("{{name = 'x_{key}', field = '/{key}', type = 'json'}}"))
            .join(","),
    );
    let dataset = toml::from_str(&definition).unwrap();
    Arc::clone(
        Datasets::new(vec![dataset])
            .unwrap()
            .by_name("items")
            .unwrap(),
    )
}

const NO_LIMITS: ChunkLimits = ChunkLimits {
    records: u32::MAX,
    bytes: usize::MAX,
};

/// Cuts, checks the invariants of every plan, and returns the text of each record.
fn texts(bytes: &[u8], limits: ChunkLimits) -> Result<Vec<Vec<u8>>, Unreadable> {
    texts_of(&ITEMS, bytes, limits)
}

fn texts_of(
    dataset: &Dataset,
    bytes: &[u8],
    limits: ChunkLimits,
) -> Result<Vec<Vec<u8>>, Unreadable> {
    let plan = cut(bytes, dataset, limits)?;
    let mut all = Vec::new();
    let mut end = 0;
    for chunk in &plan.chunks {
        assert!(
            chunk.start >= end && chunk.end >= chunk.start,
            "chunks are in order"
        );
        end = chunk.end;
        assert_eq!(
            chunk.first_ordinal as usize,
            all.len(),
            "chunks tile the ordinals"
        );
        assert!(chunk.records > 0 && chunk.records <= limits.records.max(1));
        let bytes = &bytes[chunk.start as usize..chunk.end as usize];
        assert!(bytes.len() <= limits.bytes || chunk.records == 1);
        let place = trim(bytes, 0..bytes.len());
        let ends_empty = chunk.layout == Layout::Array && bytes[..place.end].ends_with(b",");
        assert!(
            place.start == 0 && (place.end == bytes.len() || ends_empty),
            "no blanks around a chunk"
        );
        let found = records(bytes, chunk.layout, dataset);
        assert_eq!(
            found.len(),
            chunk.records as usize,
            "the plan has the right number of records"
        );
        all.extend(found.into_iter().map(|range| bytes[range].to_vec()));
    }
    assert_eq!(all.len(), plan.records as usize);
    Ok(all)
}

fn joined(document: &str) -> Result<String, Unreadable> {
    let texts = texts(document.as_bytes(), NO_LIMITS)?;
    let texts = texts
        .into_iter()
        .map(|text| String::from_utf8(text).unwrap());
    Ok(texts.collect::<Vec<_>>().join("|"))
}

#[test]
fn each_record_is_found() {
    let cases = [
        ("[]", ""),
        (" [ \n ] ", ""),
        ("[1]", "1"),
        (
            "[ {\"a\":1} , [2, {}] ,\"x,]\", null ]\n",
            "{\"a\":1}|[2, {}]|\"x,]\"|null",
        ),
        ("\u{feff}[{}]", "{}"),
        // Empty elements are records, which the parser rejects.
        ("[1,]", "1|"),
        ("[,]", "|"),
        ("[1, ,2]", "1||2"),
        // Escapes: the quote ends the string only after an even number of backslashes.
        (r#"["a\"],",2]"#, r#""a\"],"|2"#),
        (r#"["a\\",2]"#, r#""a\\"|2"#),
        (r#"["a\\\",2]"]"#, r#""a\\\",2]""#),
        // Envelopes.
        ("{\"data\": {\"items\": [{},{}]}}", "{}|{}"),
        (
            "{\"items\":[9],\"x\":[{\"data\":[]}],\"data\":{\"a\":\"]\",\"items\":[1],\"b\":{}},\"c\":3}",
            "1",
        ),
        (
            "{\"d\\u0061ta\"\n:\n{\"it\\u0065ms\"\n: \n[1,2]\n}\n}\n",
            "1|2",
        ),
        ("{\"data\":{\"items\":[]}}", ""),
        (
            "{\"a\":\"data\",\"data\":{\"b\":\"items\",\"items\":[\"items\"]}}",
            "\"items\"",
        ),
        // NDJSON.
        ("{\"a\":1}", "{\"a\":1}"),
        ("{\"a\":1}\n", "{\"a\":1}"),
        (
            "\n \n{\"a\":1}\r\n\r\n \t\n  {\"b\":2} \n\n",
            "{\"a\":1}|{\"b\":2}",
        ),
        (
            "{\"a\":1}\nbroken \"\n{\"b\":2}\n[\n7\n",
            "{\"a\":1}|broken \"|{\"b\":2}|[|7",
        ),
        // Several records on a line.
        ("{\"a\":1} {\"b\":2}\n", "{\"a\":1}|{\"b\":2}"),
        (
            "{\"a\":\"}{\"}{\"b\":[{}]}{}\n{}\n",
            "{\"a\":\"}{\"}|{\"b\":[{}]}|{}|{}",
        ),
        ("{\"a\":1}\r{\"b\":2}\r", "{\"a\":1}|{\"b\":2}"),
        ("{}\n{\"a\":1}{\"b\":2}x\n", "{}|{\"a\":1}|{\"b\":2}x"),
        (
            "{}\n{\"a\":1}{\"b\":\"x\n{}\n",
            "{}|{\"a\":1}|{\"b\":\"x|{}",
        ),
        ("{\"a\":1},{\"b\":2}\n3", "{\"a\":1},{\"b\":2}|3"),
        (
            "{}\n{\"data\":{\"items\":[1,2]}}\n",
            "{}|{\"data\":{\"items\":[1,2]}}",
        ),
        // A record of NDJSON may have a field of the pointer's name.
        (
            "{\"data\":{\"items\":5}}\n{}\n",
            "{\"data\":{\"items\":5}}|{}",
        ),
        // The first line cannot begin a document, so it is a broken record.
        ("{\"a\":\"x\n{\"b\":2}\n", "{\"a\":\"x|{\"b\":2}"),
        (
            "{\"a\":{\"b\":1}\n{\"b\":2}\n",
            "{\"a\":{\"b\":1}|{\"b\":2}",
        ),
        ("{\"a\":1}}\n{\"b\":2}\n", "{\"a\":1}}|{\"b\":2}"),
    ];
    for (document, expected) in cases {
        assert_eq!(joined(document), Ok(expected.to_owned()), "{document}");
    }
}

#[test]
fn a_document_that_does_not_close_is_incomplete() {
    let cases = [
        "[",
        "[1",
        "[1,",
        "[\"a]",
        "[{\"a\":[1]}",
        "[{\"a\":\"\\\"}]",
        "{",
        "{\"data\":",
        "{\"data\":{\"items\":[1,2]",
        "{\"data\":{\"items\":[1,2]}",
        "{\"data\":{\"items\":[1,\n{\"a\":1",
        "{\"meta\":[\n{\"a\":1}\n]",
        "{\"a",
        "{\"a\":1}\n{\"b\":",
        "{\"a\":1}\n{\"b\":\"",
        "{\"a\":1}\n{\"b\":\"\\",
        "{\"a\":1}\n{\"b\":2}\n{",
        "{\"meta\":[\n{\"a\":1}\n],\n\"data\":{\"items\":[{}\n",
    ];
    for document in cases {
        let error = joined(document).unwrap_err();
        let offset = document.len() as u64;
        let at_end = matches!(error, Unreadable::Incomplete { offset: at, .. } if at == offset);
        assert!(at_end, "{document:?}: {error}");
    }
}

#[test]
fn a_file_that_cannot_become_a_document_is_malformed() {
    let cases = [
        ("hello", 0, "not JSON"),
        ("\"a\"", 0, "not JSON"),
        ("\u{feff}\u{feff}[]", 3, "not JSON"),
        ("[1] x", 4, "more after"),
        ("[1][2]", 3, "more after"),
        ("[1}", 2, "closed by `}`"),
        ("{\"data\":1]", 9, "expected `,` or `}`"),
        (
            "{\"data\":{\"items\":[1]}}\n{\"data\":{\"items\":[2]}}\n",
            23,
            "more after",
        ),
        (
            "{\"data\":{\"items\":[1],\"items\":[2]}}",
            29,
            "second time",
        ),
        (
            "{\"data\":{\"items\":[1]},\"data\":{\"items\":[2]}}",
            38,
            "second time",
        ),
        (
            "{\"data\":{\"items\":{}}}",
            17,
            "no array of records at `/data/items`",
        ),
        (
            "{\"data\":{\"items\":null}}\n",
            17,
            "no array of records at `/data/items`",
        ),
        (
            "{\n\"data\":{\"items\":7}}",
            18,
            "no array of records at `/data/items`",
        ),
        (
            "\n{\n\"data\":[]\n}\n",
            1,
            "no array of records at `/data/items`",
        ),
        ("{\n\"a\":1}\n{\n\"a\":2}\n", 9, "more after"),
    ];
    for (document, place, expected) in cases {
        match joined(document) {
            Err(Unreadable::Malformed { offset, detail }) => {
                assert!(detail.contains(expected), "{document}: {detail}");
                assert_eq!(offset, place, "{document}: {detail}");
            }
            other => panic!("{document}: {other:?}"),
        }
    }
}

#[test]
fn chunks_end_at_the_first_limit() {
    let document = b"[1111, 2222, 3333 ,\n\"a long one, a long one\", 5]";
    let chunks = |records, bytes| {
        let plan = cut(document, &ITEMS, ChunkLimits { records, bytes }).unwrap();
        let text = |chunk: &Chunk| &document[chunk.start as usize..chunk.end as usize];
        let chunks = plan
            .chunks
            .iter()
            .map(|chunk| String::from_utf8_lossy(text(chunk)).into_owned());
        chunks.collect::<Vec<_>>()
    };
    let long = "\"a long one, a long one\"";
    assert_eq!(
        chunks(2, 1000),
        ["1111, 2222", &format!("3333 ,\n{long}"), "5"]
    );
    assert_eq!(chunks(9, 10), ["1111, 2222", "3333", long, "5"]);
    assert_eq!(chunks(9, 9), ["1111", "2222", "3333", long, "5"]);
    assert_eq!(chunks(0, 0), ["1111", "2222", "3333", long, "5"]);
    assert_eq!(chunks(u32::MAX, usize::MAX).len(), 1);
}

#[test]
fn deep_and_long_texts_are_walked_without_recursion() {
    let deep = format!("[{}{},1]", "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert_eq!(cut(deep.as_bytes(), &ITEMS, NO_LIMITS).unwrap().records, 2);
    let deep = format!("{{\"a\":{}", "{\"data\":".repeat(1 << 18));
    assert!(cut(deep.as_bytes(), &ITEMS, NO_LIMITS).is_err());
}

/// JSON values with texts that are hard to scan: quotes, brackets, backslashes, control characters.
fn value() -> impl Strategy<Value = Value> {
    let text = r#"[\\"{}\[\],:a-c \n\t\u{0}é€🦀]{0,12}"#;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
        // Runs of backslashes that cross the edges of blocks.
        (0_usize..130).prop_map(|n| Value::from("\\".repeat(n))),
    ];
    leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(text, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Array,
    Envelope,
    Lines,
}

/// A document, and the values of its records.
fn document() -> impl Strategy<Value = (String, Vec<Value>)> {
    let form = prop_oneof![Just(Form::Array), Just(Form::Envelope), Just(Form::Lines)];
    let record = (value(), any::<bool>(), "[ \t\r\n]{0,3}", "[ \t\r\n]{0,3}");
    (form, prop::collection::vec(record, 0..20), value(), value()).prop_map(
        |(form, records, before, after)| {
            let text = |(value, pretty, left, right): &(Value, bool, String, String)| match form {
                // `document` puts a line with a field of the dataset before these lines, so the
                // file is NDJSON.
                Form::Lines => format!("{value}{}\n{right}", left.replace('\n', "\r")),
                _ if *pretty => format!("{left}{value:#}{right}"),
                _ => format!("{left}{value}{right}"),
            };
            let texts: Vec<_> = records.iter().map(text).collect();
            let mut values: Vec<_> = records.into_iter().map(|record| record.0).collect();
            let document = match form {
                Form::Array => format!(" [{}] ", texts.join(",")),
                Form::Envelope => format!(
                    "{{\"before\":{before:#},\"data\":{{\"x\":{after},\"items\" :[{}],\
                     \"y\":{before}}},\"after\":{after}}}\n",
                    texts.join(",")
                ),
                Form::Lines => {
                    values.insert(0, serde_json::json!({"id": 0}));
                    format!("{{\"id\":0}}\n{}", texts.concat())
                }
            };
            (document, values)
        },
    )
}

fn limits() -> impl Strategy<Value = ChunkLimits> {
    (0_u32..8, 0_usize..200).prop_map(|(records, bytes)| ChunkLimits { records, bytes })
}

proptest! {
    #[test]
    fn records_are_the_elements_that_serde_json_sees(
        (document, values) in document(), limits in limits(),
    ) {
        let texts = texts(document.as_bytes(), limits).unwrap();
        let parsed: Vec<Value> =
            texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
        prop_assert_eq!(parsed, values, "{}", document);
    }

    #[test]
    fn a_truncated_document_is_incomplete(
        (document, _) in document(), at in any::<prop::sample::Index>(),
    ) {
        let whole = document.trim_end();
        if !whole.starts_with("{\"id\"") {
            let blank = whole.len() - whole.trim_start().len();
            let mut end = blank + 1 + at.index(whole.len() - blank - 1);
            while !whole.is_char_boundary(end) {
                end -= 1;
            }
            let cut = cut(&whole.as_bytes()[..end], &ITEMS, NO_LIMITS);
            let waits = matches!(cut, Err(Unreadable::Incomplete { .. }));
            prop_assert!(waits, "{:?} {}", cut, &whole[..end]);
        }
    }

    #[test]
    fn limits_of_chunks_change_no_record(
        (document, _) in document(), one in limits(), other in limits(),
        at in any::<prop::sample::Index>(), byte in "[\\[\\]{}\",\\\\ \nx]",
    ) {
        // One byte is changed, so that documents which are not JSON are covered as well.
        let mut bytes = document.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte.as_bytes()[0];
        prop_assert_eq!(texts(&bytes, one), texts(&bytes, other));
    }

    #[test]
    fn any_bytes_are_cut_without_a_panic(
        bytes in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(b"[]{}\",:\\\n\r 1".to_vec()),
            1 => any::<u8>(),
        ], 0..400),
        start in "(\\[|\\{|\\{\"data\":\\{\"items\":\\[)?",
        limits in limits(),
    ) {
        let bytes = [start.as_bytes(), &bytes].concat();
        let _ = texts(&bytes, limits);
    }
}

/// Found by fuzzing: the place of an empty record depended on the limits of chunks.
#[test]
fn an_empty_record_has_the_same_place_in_any_chunks() {
    for text in [
        "[1, \n ]",
        "[ ,1]",
        "[1, ,2]",
        "[1,]",
        "[ , , ]",
        "{}\n{},  \n",
    ] {
        let places = |records_max| {
            let limits = ChunkLimits {
                records: records_max,
                bytes: usize::MAX,
            };
            let plan = cut(text.as_bytes(), &ITEMS, limits).unwrap();
            let place = |chunk: &Chunk| {
                let start = chunk.start as usize;
                let bytes = &text.as_bytes()[start..chunk.end as usize];
                let found = records(bytes, chunk.layout, &ITEMS).into_iter();
                found
                    .map(|range| range.start + start..range.end + start)
                    .collect::<Vec<_>>()
            };
            plan.chunks.iter().flat_map(place).collect::<Vec<_>>()
        };
        assert_eq!(places(1), places(u32::MAX), "{text:?}");
        assert_eq!(places(2), places(u32::MAX), "{text:?}");
    }
}

#[test]
fn a_single_object_is_a_record_only_if_it_has_a_field_of_the_dataset() {
    for record in [
        r#"{"x": 1, "id": 2}"#,
        "{\n  \"id\": 2,\n  \"x\": {\n    \"y\": 3\n  }\n}\n",
        r#"{"id":1,"data":{"items":5}}"#,
        // Not JSON: the parser rejects them.
        r#"{"id":1,,}"#,
        r#"{"x":tru,"id":1}"#,
    ] {
        assert_eq!(joined(record), Ok(record.trim().to_owned()));
    }
    assert_eq!(
        joined("{\"x\": 1}\n{\"x\": 2}").unwrap(),
        "{\"x\": 1}|{\"x\": 2}"
    );
    for other in [
        "{}",
        r#"{"event": [{"id": 1}]}"#,
        r#"{"other": {"items": [{"id": 1}]}}"#,
    ] {
        let error = joined(other).unwrap_err();
        assert!(matches!(error, Unreadable::Malformed { .. }), "{other}");
        assert!(error.to_string().contains("has no field of a record"));
    }
}

#[test]
fn a_single_broken_line_is_an_incomplete_document() {
    let document = "{\"items\":[{\"id\":\"a\"},{\"i\n";
    let cut = cut(document.as_bytes(), &ITEMS, NO_LIMITS);
    assert!(matches!(cut, Err(Unreadable::Incomplete { .. })), "{cut:?}");
}
