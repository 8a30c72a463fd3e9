//! Values that are not in the record's own fields: of the envelope, keys, indices, constants; and
//! the first of several fields.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn trips(records: &str, columns: &[&str]) -> Arc<Dataset> {
    let columns: Vec<String> = columns.iter().map(|it| format!("{{{it}}}")).collect();
    let columns = columns.join(",");
    dataset(&format!(
        "name = 'trips'\nrecords = '{records}'\ncolumns = [{columns}]"
    ))
}

/// The rows of a document, as texts with a space between the cells and `-` for NULL, or the code and
/// field of the reject. The same with chunks of any size, and for each record by itself.
fn rows(dataset: &Arc<Dataset>, document: &str) -> Vec<String> {
    let all = outcomes(dataset, document.as_bytes(), NO_LIMITS);
    for (records, bytes) in [(1, 1), (2, 40), (3, 90), (100, 200)] {
        let limits = ChunkLimits { records, bytes };
        let limited = outcomes(dataset, document.as_bytes(), limits);
        assert_eq!(limited, all, "{records} records, {bytes} bytes: {document}");
    }
    let text = |outcome: &Outcome| match outcome {
        Ok(cells) => {
            let cells = cells.iter().map(|cell| cell.as_deref().unwrap_or("-"));
            cells.collect::<Vec<_>>().join(" ")
        }
        Err((code, field)) => format!("{} {}", code.as_str(), field.as_deref().unwrap_or("-")),
    };
    all.iter().map(text).collect()
}

#[test]
fn fields_of_the_envelope_are_found_wherever_they_are() {
    let dataset = trips(
        "/r/*/s/*/l",
        &[
            "name = 'n', type = 'integer', field = '/n'",
            "name = 'at', type = 'integer', envelope = '/at'",
            "name = 'host', type = 'text', envelope = '/r/*/res/attrs/0/v', required = false",
            "name = 'scope', type = 'text', envelope = '/r/*/s/*/name', required = false",
        ],
    );
    let document = r#"{"r":[
        {"res":{"attrs":[{"v":"h\"1"}]},"s":[{"name":"a","l":[{"n":1},{"n":2}]},{"l":[{"n":3}]}]},
        {"s":[{"l":[{"n":4}],"name":true}],"res":{"attrs":[{"k":0,"v":7},{"v":8}]}},
        {"s":[],"res":{"attrs":[{"v":"none"}]}},
        {"res":{"attrs":[]},"s":{"k":{"l":[{"n":5,"x":1}],"name":null}}}
        ],"at":9}"#;
    assert_eq!(
        rows(&dataset, document),
        [
            "1 9 h\"1 a -",
            "2 9 h\"1 a -",
            "3 9 h\"1 - -",
            "4 9 7 true -",
            r#"5 9 - - {"x":1}"#,
        ]
    );
}

#[test]
fn an_envelope_without_each_gives_its_fields_to_all_records() {
    let dataset = trips(
        "/data/bikes",
        &[
            "name = 'bike', type = 'text', field = '/id'",
            "name = 'updated', type = 'timestamp', epoch = 's', envelope = '/last_updated'",
            "name = 'kind', type = 'text', value = 'bike'",
            "name = 'index', type = 'integer', key = '/data/bikes/*', required = false",
        ],
    );
    let after =
        r#"{"data":{"bikes":[{"id":"a"},{"id":"b\n"},{"id":tru},{"id":"c"}]},"last_updated":2}"#;
    let expected = [
        "a 2000000 bike 0 -",
        "b\n 2000000 bike 1 -",
        "invalid_json id",
        "c 2000000 bike 3 -",
    ];
    assert_eq!(rows(&dataset, after), expected);
    let before = r#"{"last_updated":"2","data":{"bikes":[{"id":"a"}]}}"#;
    assert_eq!(rows(&dataset, before), ["a 2000000 bike 0 -"]);
    // Missing, null and bad values, for all records.
    for (envelope, expected) in [
        ("\"x\":1", "missing_field updated"),
        ("\"last_updated\":null", "missing_field updated"),
        ("\"last_updated\":\"soon\"", "invalid_timestamp updated"),
        ("\"last_updated\":{}", "wrong_type updated"),
    ] {
        let document = format!(r#"{{{envelope},"data":{{"bikes":[{{"id":"a"}},{{"id":"b"}}]}}}}"#);
        assert_eq!(rows(&dataset, &document), [expected, expected]);
    }
    let large = "x".repeat(9_000);
    let document = format!(r#"{{"last_updated":"{large}","data":{{"bikes":[{{"id":"a"}}]}}}}"#);
    assert_eq!(rows(&dataset, &document), ["too_large updated"]);
    // An array has no envelope.
    assert_eq!(rows(&dataset, r#"[{"id":"a"}]"#), ["missing_field updated"]);
    let second = r#"{"last_updated":1,"data":{"bikes":[]},"last_updated":2}"#;
    let error = cut::cut(second.as_bytes(), &dataset, NO_LIMITS)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`last_updated`, of a column, is in its object a second time"),
        "{error}"
    );
}

#[test]
fn keys_and_indices_lead_to_the_record() {
    let dataset = trips(
        "/p/*",
        &[
            "name = 'v', type = 'integer'",
            "name = 'key', type = 'text', key = '/p/*'",
            "name = 'at', type = 'unsigned', key = '/p/*/*', required = false",
        ],
    );
    let document =
        r#"{"p":{"git":{"v":1},"a\u00e9\"":{"v":2},"list":[{"v":3},{"v":4}],"bad":{"v":{}}}}"#;
    assert_eq!(
        rows(&dataset, document),
        [
            "1 git - -",
            "2 aé\" - -",
            "3 list 0 -",
            "4 list 1 -",
            "wrong_type v"
        ]
    );
    assert_eq!(
        rows(
            &dataset,
            r#"{"p":[{"v":1},[{"v":2},{"v":3}],{"v":4},{"v":5},{"v":6}]}"#
        ),
        [
            "1 0 - -", "2 1 0 -", "3 1 1 -", "4 2 - -", "5 3 - -", "6 4 - -"
        ]
    );
    let nested = trips(
        "/r/*/s/*/l",
        &[
            "name = 'r', type = 'integer', key = '/r/*'",
            "name = 's', type = 'text', key = '/r/*/s/*'",
            "name = 'l', type = 'float', key = '/r/*/s/*/l/*'",
        ],
    );
    let document =
        r#"{"r":[{"s":{"a":{"l":[{}]},"b":{"l":[{},{}]}}},{"s":{}},{"s":[{},{"l":[{},{}]}]}]}"#;
    assert_eq!(
        rows(&nested, document),
        [
            "0 a 0.0 -",
            "0 b 0.0 -",
            "0 b 1.0 -",
            "2 1 0.0 -",
            "2 1 1.0 -"
        ]
    );
}

#[test]
fn a_value_that_its_column_does_not_accept_is_rescued_or_refused() {
    let dataset = trips(
        "/r/*/l",
        &[
            "name = 'n', type = 'integer'",
            "name = 'at', type = 'date', envelope = '/r/*/at', required = false, on_error = 'null'",
            "name = 'b', type = 'binary', envelope = '/r/*/b', encoding = 'hex', required = false",
            "name = 'j', type = 'json', envelope = '/r/*/j', default = '[]', required = false",
            "name = 'c', type = 'binary', value = 'aGk='",
        ],
    );
    let document = r#"{"r":[{"at":"x","l":[{"n":1},{"n":2,"m":3}]},{"b":"ff","j":{"a":[1]},"l":[{"n":3}]},{"b":"f","l":[{"n":4}]}]}"#;
    assert_eq!(
        rows(&dataset, document),
        [
            r#"1 - - [] 6869 {"/r/*/at":"x"}"#,
            r#"2 - - [] 6869 {"m":3,"/r/*/at":"x"}"#,
            r#"3 - ff {"a":[1]} 6869 -"#,
            "invalid_binary b",
        ]
    );
}

#[test]
fn the_first_of_several_fields_that_has_a_value_is_taken() {
    let dataset = trips(
        "/r",
        &[
            "name = 'i', type = 'integer', field = ['/after/id', '/before/id', '/id']",
            "name = 'name', type = 'text', field = ['/fullName', '/full_name'], required = false",
        ],
    );
    for (record, expected) in [
        (r#"{"after":{"id":1}}"#, "1 - -"),
        (r#"{"id":3,"full_name":"n"}"#, "3 n -"),
        (r#"{"fullName":"n","id":3}"#, "3 n -"),
        (
            r#"{"after":null,"before":{"id":2},"full_name":"m","fullName":null}"#,
            "2 m -",
        ),
        // What is not taken is not lost.
        (r#"{"id":3,"before":{"id":2}}"#, r#"2 - {"id":3}"#),
        (
            r#"{"before":{"id":2},"after":{"id":1}}"#,
            r#"1 - {"before":{"id":2}}"#,
        ),
        (
            r#"{"full_name":"m","fullName":"n","id":1}"#,
            r#"1 n {"full_name":"m"}"#,
        ),
        (r#"{"x":1}"#, "missing_field i"),
        (r#"{"after":{"id":{}},"id":1}"#, "wrong_type i"),
        (r#"{"id":1,"id":2}"#, "duplicate_field i"),
        (r#"{"after":{"id":1,"id":2}}"#, "duplicate_field i"),
    ] {
        assert_eq!(
            rows(&dataset, &format!("[{record}]")),
            [expected],
            "{record}"
        );
    }
    let refuses = dataset_with_rule("reject");
    assert_eq!(
        rows(&refuses, r#"[{"a":1,"b":2},{"a":1,"b":null},{"b":2}]"#),
        ["unknown_field b", "1 -", "2 -"]
    );
    let ignores = dataset_with_rule("ignore");
    assert_eq!(rows(&ignores, r#"[{"a":1,"b":2}]"#), ["1 -"]);
}

fn dataset_with_rule(rule: &str) -> Arc<Dataset> {
    let columns = "columns = [{name = 'x', type = 'integer', field = ['/a', '/b']}]";
    dataset(&format!(
        "name = 'trips'\non_unknown_field = '{rule}'\n{columns}"
    ))
}

#[test]
fn a_record_that_is_an_array_is_read_by_position() {
    let dataset = trips(
        "/data",
        &[
            "name = 'n', type = 'integer', field = '/0'",
            "name = 't', type = 'text', field = ['/1', '/2'], required = false",
            "name = 'lat', type = 'float', field = '/3/lat', required = false",
            "name = 'day', type = 'date', field = '/10', required = false, on_error = 'null'",
        ],
    );
    for (record, expected) in [
        ("[1]", "1 - - - -"),
        (r#"[ "2" , "a\nb" , null, {"lat":1.5} ]"#, "2 a\nb 1.5 - -"),
        (
            r#"[3,null,"c",{"lat":2,"lon":[7]}]"#,
            r#"3 c 2.0 - {"3":{"lat":2,"lon":[7]}}"#,
        ),
        (
            r#"[4,"a","b",null,"e",{"f":1}]"#,
            r#"4 a - - {"2":"b","4":"e","5":{"f":1}}"#,
        ),
        (
            r#"[5,"a",null,null,1,1,1,1,1,1,"x"]"#,
            r#"5 a - - {"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":"x"}"#,
        ),
        // An object may have the same keys.
        (r#"{"0":6,"x":1}"#, r#"6 - - - {"x":1}"#),
        ("[]", "missing_field n"),
        ("[null]", "missing_field n"),
        ("[{}]", "wrong_type n"),
        ("[1,{}]", "wrong_type t"),
        ("[1,\"a\",tru]", "invalid_json 2"),
        ("7", "not_an_object -"),
    ] {
        assert_eq!(
            rows(&dataset, &format!("[{record}]")),
            [expected],
            "{record}"
        );
        let envelope = format!(r#"{{"data":[{record},[9]]}}"#);
        assert_eq!(
            rows(&dataset, &envelope),
            [expected, "9 - - - -"],
            "{record}"
        );
    }
    // Without an index, an array is no record.
    let named = trips("/data", &["name = 'n', type = 'text', required = false"]);
    assert_eq!(rows(&named, "[[1]]"), ["not_an_object -"]);
    let raw = br#"[1, "a", {"lat": []}]"#;
    let place = |field| place_of_fault(Some(&dataset), raw, RejectCode::WrongType, Some(field));
    assert_eq!(
        (place("n"), place("t"), place("lat")),
        (Some(1), Some(4), None)
    );
}

#[test]
fn lines_may_be_arrays() {
    let columns = "columns = [{name = 'n', type = 'integer', field = '/0'}]";
    let dataset = dataset(&format!("name = 'l'\nformat = 'lines'\n{columns}"));
    assert_eq!(
        rows(&dataset, "[1]\n[2]\n{}\n[3\n"),
        ["1 -", "2 -", "missing_field n", "invalid_json -"]
    );
}

#[test]
fn envelopes_of_a_sequence_have_their_own_fields() {
    let columns = "columns = [{name = 'n', type = 'integer'}, {name = 'at', type = 'text', \
                   envelope = '/at', required = false}]";
    let dataset = dataset(&format!("name = 'l'\nformat = 'sequence'\n{columns}"));
    let text = r#"{"at":"a","l":[{"n":1},{"n":2}]}
        {"n":3} {"l":[{"n":4}]} [{"n":5}] {"l":[{"n":6},{"n":7}],"at":"b"}"#;
    assert_eq!(
        rows(&dataset, text),
        [
            "1 a -", "2 a -", "3 - -", "4 - -", "5 - -", "6 b -", "7 b -"
        ]
    );
}

/// An envelope with the arrays of two datasets, each with a field of it.
#[test]
fn each_array_of_an_envelope_has_its_values() {
    let definition = |name: &str, field: &str| {
        let columns = format!(
            "columns = [{{name = 'n', type = 'integer'}}, {{name = 'at', type = 'text', envelope = '/{field}'}}]"
        );
        toml::from_str(&format!("name = '{name}'\n{columns}")).unwrap()
    };
    let datasets = Datasets::new(vec![definition("one", "a"), definition("two", "b")]).unwrap();
    let of = datasets.of_file(b"one.json", None).unwrap();
    let text = br#"{"a":"x","one":[{"n":1}],"two":[{"n":2},{"n":3}],"b":"y"}"#;
    let plans = cut::cut_each(text, &of, NO_LIMITS).unwrap();
    let mut parser = Parser::default();
    let mut found = Vec::new();
    for (dataset, plan) in &plans {
        assert_eq!(
            cut::cut_one(text, dataset, &datasets, b"one.json", NO_LIMITS).as_ref(),
            Ok(plan)
        );
        for chunk in &plan.chunks {
            let read = |place: Range<u64>| {
                str::from_utf8(&text[place.start as usize..place.end as usize]).map(str::to_owned)
            };
            let outside = chunk.outside(read).unwrap();
            let bytes = &text[chunk.start as usize..chunk.end as usize];
            let batch = parser.parse(dataset, FILE, chunk, bytes, &outside);
            for row in 0..batch.rows.num_rows() {
                found.push(
                    cells(&batch.rows, row)
                        .into_iter()
                        .flatten()
                        .collect::<Vec<_>>()
                        .join(" "),
                );
            }
        }
    }
    assert_eq!(found, ["1 x", "2 y", "3 y"]);
}

/// Containers below containers, with values around records.
fn document() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        r#"[a"\\é]{0,4}"#.prop_map(Value::from),
    ];
    let record = scalar
        .clone()
        .prop_map(|value| serde_json::json!({"n": value}));
    let records = prop::collection::vec(record, 0..5).prop_map(Value::from);
    let around = |inner: BoxedStrategy<Value>| {
        let child = (inner, scalar.clone(), any::<bool>()).prop_map(|(inner, value, first)| {
            // serde_json sorts the keys: the value is before or after the records.
            if first {
                serde_json::json!({"a": value, "l": inner})
            } else {
                serde_json::json!({"l": inner, "z": value})
            }
        });
        let children = prop::collection::btree_map("[a-z\"]{1,3}", child, 0..4);
        (children, any::<bool>()).prop_map(|(children, is_object)| {
            if is_object {
                Value::Object(children.into_iter().collect())
            } else {
                children.into_values().collect()
            }
        })
    };
    let middle = around(records.boxed()).boxed();
    (around(middle), scalar.clone()).prop_map(|(r, value)| serde_json::json!({"a": value, "r": r}))
}

proptest! {
    #[test]
    fn values_outside_are_those_that_serde_json_sees(
        document in document(), records in 1_u32..9, bytes in 0_usize..300,
    ) {
        let columns = [
            "name = 'n', type = 'json', required = false",
            "name = 'top', type = 'json', envelope = '/a', required = false",
            "name = 'r', type = 'json', envelope = '/r/*/a', required = false",
            "name = 'rz', type = 'json', envelope = '/r/*/z', required = false",
            "name = 's', type = 'json', envelope = '/r/*/l/*/z', required = false",
            "name = 'key', type = 'text', key = '/r/*', required = false",
            "name = 'index', type = 'text', key = '/r/*/l/*/l/*', required = false",
        ];
        let dataset = trips("/r/*/l/*/l", &columns);
        let text = document.to_string();
        let limits = ChunkLimits { records, bytes };
        let Ok(_) = cut::cut(text.as_bytes(), &dataset, NO_LIMITS) else { return Ok(()) };
        let mut expected = Vec::new();
        let shown = |value: Option<&Value>| value.filter(|it| !it.is_null()).map(ToString::to_string);
        for (key, r) in children(&document["r"]) {
            for (_, s) in children(&r["l"]) {
                for (index, record) in s["l"].as_array().unwrap().iter().enumerate() {
                    expected.push(Ok(vec![
                        shown(record.get("n")), shown(document.get("a")), shown(r.get("a")),
                        shown(r.get("z")), shown(s.get("z")), Some(key.clone()),
                        Some(index.to_string()), None,
                    ]));
                }
            }
        }
        prop_assert_eq!(outcomes(&dataset, text.as_bytes(), limits), expected);
    }
}

/// The children of a container, each with its key or index.
fn children(container: &Value) -> Vec<(String, &Value)> {
    match container {
        Value::Object(members) => members.iter().map(|(key, it)| (key.clone(), it)).collect(),
        Value::Array(elements) => {
            let elements = elements.iter().enumerate();
            elements.map(|(at, it)| (at.to_string(), it)).collect()
        }
        _ => Vec::new(),
    }
}
