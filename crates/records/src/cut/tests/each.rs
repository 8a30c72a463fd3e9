//! Pointers with `*`: tables of documents and their records, and the records that `serde_json` sees.

use super::shapes::shape;
use super::*;

fn each(pointer: &str) -> Arc<Dataset> {
    defined(&format!("records = '{pointer}'"))
}

fn joined(pointer: &str, text: &str) -> Result<String, Unreadable> {
    let texts = texts_of(&each(pointer), text.as_bytes(), NO_LIMITS)?;
    let texts = texts.iter().map(|text| str::from_utf8(text).unwrap());
    Ok(texts.collect::<Vec<_>>().join("|"))
}

#[test]
fn each_array_that_the_pointer_leads_to_is_found() {
    for (pointer, text, expected) in [
        (
            "/d/*/i",
            r#"{"d":[{"i":[1,2]},{"x":[9],"i":[ 3 ]}]}"#,
            "1|2|3",
        ),
        (
            "/d/*/i",
            r#"{"d":{"k":{"i":[1]},"l":{"i":[2,3]}}}"#,
            "1|2|3",
        ),
        ("/d/*/i", r#"{"x":0,"d":[],"y":"]"}"#, ""),
        ("/d/*/i", r#"{"d":[{"i":[]},{"i":[1]},{"i":[]}]}"#, "1"),
        // What is missing or null has no records.
        ("/d/*/i", r#"{"d":[{},null,{"i":null},{"i":[1]}]}"#, "1"),
        ("/d/*/i", r#"{"d":{"a":null,"b":{"i":[1]}}}"#, "1"),
        ("/*/i", r#"[{"i":[1]},{"i":[2]}]"#, "1|2"),
        ("/*/i", r#"{"a":{"i":[1]},"b":{"i":[2]}}"#, "1|2"),
        ("/*/i/0/*/j", r#"[{"i":[[{"j":[1]},{"j":[2]}],5]}]"#, "1|2"),
        // Several deep.
        (
            "/r/*/s/*/l",
            r#"{"r":[{"s":[{"l":[1]},{"l":[2,3]}]},{"p":{"l":[9]},"s":[{"l":[4]}]}]}"#,
            "1|2|3|4",
        ),
        // Each element of arrays of arrays.
        ("/d/*", "{\"d\":[[1,2],[],[3]]}", "1|2|3"),
        ("/d/*/*", "{\"d\":[[[1],[2]],{\"k\":[3]}]}", "1|2|3"),
        // Members that are records themselves.
        (
            "/d/*",
            r#"{"d":{"a":{"i":1},"b" : {"i":[2]} ,"c":[ {"i":3},4 ]},"x":1}"#,
            r#"{"i":1}|{"i":[2]}|{"i":3}|4"#,
        ),
        ("/d/*", r#"{"d":{}}"#, ""),
        ("/d/*", r#"{"d":[{"i":1},null,7]}"#, r#"{"i":1}|null|7"#),
        (
            "/*",
            r#"{"a":{"i":1},"\"}":{"i":"}"}}"#,
            r#"{"i":1}|{"i":"}"}"#,
        ),
        ("/*", r#"[{"i":1},[{"i":2}]]"#, r#"{"i":1}|{"i":2}"#),
        // A bad record alone does not harm its neighbours.
        (
            "/d/*",
            r#"{"d":{"a":{tru},"b":{"i":1,,},"c":tru,"d":{"i":2}}}"#,
            r#"{tru}|{"i":1,,}|tru|{"i":2}"#,
        ),
        (
            "/d/*/i",
            r#"{"d":[{"i":[{tru},{"i":1}]}]}"#,
            r#"{tru}|{"i":1}"#,
        ),
        // A key with an escape, and a single record without the array.
        ("/d/*/i", "{\"\\u0064\":[{\"\\u0069\":[1]}]}", "1"),
        ("/d/*/i", r#"{"a":5,"d":7}"#, r#"{"a":5,"d":7}"#),
    ] {
        assert_eq!(
            joined(pointer, text),
            Ok(expected.to_owned()),
            "{pointer} in {text}"
        );
    }
}

#[test]
fn what_is_broken_between_the_arrays_refuses_the_file() {
    for (pointer, text, place, expected) in [
        ("/d/*/i", r#"{"d":[{"i":[1]},tru]}"#, 16, "not JSON outside"),
        (
            "/d/*/i",
            r#"{"d":[{"i":[1]}{"i":[2]}]}"#,
            15,
            "expected `,` or `]` after an element",
        ),
        ("/d/*/i", r#"{"d":[{"i":[1]},]}"#, 16, "not JSON outside"),
        (
            "/d/*/i",
            r#"{"d":[{"i":[1 2]}]}"#,
            14,
            "expected `,` or `]` after a record",
        ),
        (
            "/d/*/i",
            "{\"d\":[{\"i\":[1],\"x\":\"\u{1}\"}]}",
            20,
            "not JSON outside",
        ),
        // Nothing is left out without a word.
        (
            "/d/*/i",
            r#"{"d":[{"i":[1]},5]}"#,
            16,
            "expected an object at `/d/*`, found `5`",
        ),
        (
            "/d/*/i",
            r#"{"d":[{"i":[1]},[2]]}"#,
            16,
            "expected an object at `/d/*`, found `[`",
        ),
        (
            "/d/*/i",
            r#"{"d":[{"i":{}}]}"#,
            11,
            "expected an array of records at `/d/*/i`, found `{`",
        ),
        (
            "/d/*/*/i",
            r#"{"d":[7]}"#,
            6,
            "expected an object or an array at `/d/*`, found `7`",
        ),
        (
            "/d/*/i",
            r#"{"d":[{"i":[1],"i":[2]}]}"#,
            19,
            "`i` of `/d/*/i` is in its object a second",
        ),
        ("/d/*/i", r#"{"d":[{"i":[1]}],"d":[]}"#, 21, "a second time"),
        // No array anywhere.
        ("/d/*/i", r#"{"x":1}"#, 0, "no array of records at `/d/*/i`"),
        ("/d/*/i", r#"{"d":[{"x":1}]}"#, 0, "no array of records"),
        ("/d/*/i", r#"{"d":5}"#, 0, "no array of records"),
        ("/*/i", r#"[{"x":1}]"#, 0, "no array of records"),
        // Members whose bounds are not certain.
        ("/d/*", r#"{"d":{"a":{}{}}}"#, 12, "expected `,` or `]`"),
        (
            "/d/*",
            r#"{"d":{"a":{},}}"#,
            13,
            "expected a key, found `}`",
        ),
        (
            "/d/*",
            r#"{"d":{"a":,"b":{}}}"#,
            10,
            "expected a record, found `,`",
        ),
        ("/d/*", r#"{"d":{"a" {}}}"#, 10, "expected `:` after a key"),
        ("/d/*", r#"{"d":{a:{}}}"#, 6, "expected a key, found `a`"),
        ("/d/*", r#"{"d":[1,]}"#, 8, "expected a record, found `]`"),
        (
            "/d/*",
            r#"{"d":{"a":[1 2]}}"#,
            13,
            "expected `,` or `]` after a record",
        ),
        ("/d/*", r#"{"d":{"a":{}],"x":1}"#, 12, "not JSON outside"),
        (
            "/d/*",
            "{\"d\":{\"a\":{}},\"x\":\"\\x\"}",
            19,
            "not JSON outside",
        ),
    ] {
        match joined(pointer, text) {
            Err(Unreadable::Malformed { offset, detail }) => {
                assert!(detail.contains(expected), "{pointer} in {text}: {detail}");
                assert_eq!(offset, place, "{pointer} in {text}: {detail}");
            }
            other => panic!("{pointer} in {text}: {other:?}"),
        }
    }
    let bad_text = b"{\"d\":{\"a\":{},\"\xff\":{}}}";
    let error = cut(bad_text, &each("/d/*"), NO_LIMITS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not UTF-8 outside of the records (at byte 14)"
    );
}

#[test]
fn chunks_are_cut_between_siblings_and_within_large_ones() {
    let chunks = |pointer: &str, text: &str, records, bytes| {
        let limits = ChunkLimits { records, bytes };
        let dataset = each(pointer);
        texts_of(&dataset, text.as_bytes(), limits).unwrap();
        let plan = cut(text.as_bytes(), &dataset, limits).unwrap();
        let show = |chunk: &Chunk| {
            let text = &text[chunk.start as usize..chunk.end as usize];
            format!("{:?} {} {text}", chunk.layout, chunk.records)
        };
        plan.chunks.iter().map(show).collect::<Vec<_>>()
    };
    let (one, three) = (r#"{"i":[1]}"#, r#"{"i":[1,2,3]}"#);
    let text = format!(r#"{{"d":[{one},{{}},{one},{three},{one}]}}"#);
    assert_eq!(
        chunks("/d/*/i", &text, 9, 100),
        [format!("Elements(2) 6 {one},{{}},{one},{three},{one}")]
    );
    assert_eq!(
        chunks("/d/*/i", &text, 2, 100),
        [
            format!("Elements(2) 2 {one},{{}},{one}"),
            "Array 2 1,2".to_owned(),
            "Array 1 3".to_owned(),
            format!("Elements(2) 1 {one}"),
        ]
    );
    assert_eq!(chunks("/d/*/i", &text, 0, 0).len(), 6);
    let text = format!(r#"{{"r":[{{"s":{{"a":{one},"b":{one},"c":{three}}}}},{{"s":[{one}]}}]}}"#);
    assert_eq!(
        chunks("/r/*/s/*/i", &text, 9, 30),
        [
            format!(r#"Members(4) 2 "a":{one},"b":{one}"#),
            format!(r#"Members(4) 3 "c":{three}"#),
            format!(r#"Elements(2) 1 {{"s":[{one}]}}"#),
        ]
    );
    let text = r#"{"a":{"i":1},"b":{"i":2},"c":{"i":"long text"}}"#;
    assert_eq!(
        chunks("/*", text, 9, 24),
        [
            r#"Members(1) 2 "a":{"i":1},"b":{"i":2}"#,
            r#"Members(1) 1 "c":{"i":"long text"}"#,
        ]
    );
    assert_eq!(chunks("/*", text, 9, 1)[2], r#"Array 1 {"i":"long text"}"#);
}

#[test]
fn a_sequence_may_hold_envelopes_with_each() {
    let dataset = |pointer| defined(&format!("format = 'sequence'\nrecords = '{pointer}'"));
    let line = r#"{"d":[{"i":[1]},{"i":[2,3]}]}"#;
    let lines = format!("{line}\n{{\"d\":[]}}\n{{\"a\":1}}\n[8]{line}");
    assert_eq!(shape(&dataset("/d/*/i"), &lines), "sequence 8");
    for limits in [(9, 100), (2, 100), (1, 1)] {
        let (records, bytes) = limits;
        let limits = ChunkLimits { records, bytes };
        let texts = texts_of(&dataset("/d/*/i"), lines.as_bytes(), limits).unwrap();
        let texts: Vec<_> = texts
            .iter()
            .map(|text| str::from_utf8(text).unwrap())
            .collect();
        assert_eq!(texts.join("|"), "1|2|3|{\"a\":1}|8|1|2|3", "{limits:?}");
    }
    assert_eq!(
        shape(&dataset("/*/i"), "[{\"i\":[1,2]}][{\"i\":[3]}]"),
        "sequence 3"
    );
    assert_eq!(
        shape(&dataset("/*"), "{\"x\":{\"a\":1}}{\"y\":{\"a\":2}}"),
        "sequence 2"
    );
    assert_eq!(
        shape(&dataset("/d/*/i"), "{\"d\":[{\"i\":[1]},5]}"),
        "refused at 16"
    );
}

/// As the JSON of Protocol Buffers leaves out arrays without elements.
#[test]
fn an_envelope_of_a_sequence_may_lack_its_arrays() {
    let dataset = |pointer| defined(&format!("format = 'sequence'\nrecords = '{pointer}'"));
    let full = r#"{"r":[{"s":[{"l":[1,2]}]}]}"#;
    for (text, expected) in [
        (r#"{"r":[{"s":[{}]}]}"#, "sequence 4"),
        (r#"{"r":[{}]}"#, "sequence 4"),
        (r#"{"r":[{},{"s":null},{"s":[{"l":null}]}]}"#, "sequence 4"),
        // No container of the pointer.
        ("{}", "sequence 5"),
        (r#"{"r":null}"#, "sequence 5"),
        (r#"{"t":[{"s":[{}]}]}"#, "sequence 5"),
        // A field of a record.
        (r#"{"a":1,"r":[{}]}"#, "sequence 5"),
    ] {
        let file = format!("{full}{text}{full}");
        assert_eq!(shape(&dataset("/r/*/s/*/l"), &file), expected, "{text}");
        // Nothing in the file is certainly of the dataset.
        let alone = shape(&dataset("/r/*/s/*/l"), text);
        let is_record = text.contains("\"a\"");
        assert_eq!(
            alone.starts_with("refused at 0"),
            !is_record,
            "{text}: {alone}"
        );
    }
    let lone = r#"[{"j":[]}][{"i":[1]}]"#;
    assert_eq!(shape(&dataset("/*/i"), lone), "sequence 1");
}

#[test]
fn arrays_of_other_datasets_lie_beside_those_of_each() {
    let dataset = |more: &str| {
        let columns = "columns = [{name = 'x', field = '/id', type = 'text'}]";
        toml::from_str(&format!("{more}\n{columns}")).unwrap()
    };
    let all = [
        "name = 'orders'",
        "name = 'items'\nfiles = 'orders'\nrecords = '/orders/*/items'\nalso = true",
        "name = 'notes'\nrecords = '/notes/*'",
    ];
    let datasets = Datasets::new(all.map(dataset).to_vec()).unwrap();
    let of = datasets.of_file(b"orders", None).unwrap();
    let text = r#"{"orders":[{"id":1,"items":[7,8]},{"id":2,"items":[9]}],"notes":{"a":{},"b":5}}"#;
    let plans = cut_each(text.as_bytes(), &of, NO_LIMITS).unwrap();
    let found: Vec<_> = (plans.iter())
        .map(|(dataset, plan)| format!("{} {}", dataset.name, plan.records))
        .collect();
    assert_eq!(found, ["orders 2", "notes 2", "items 3"]);
    for (dataset, plan) in &plans {
        let one = cut_one(text.as_bytes(), dataset, &datasets, b"orders", NO_LIMITS);
        assert_eq!(one.as_ref(), Ok(plan));
    }
}

/// A document in which `/r/*/s/*` leads to records or arrays of records, and its records.
fn document() -> impl Strategy<Value = (String, Vec<Value>)> {
    let records = || prop::collection::vec(value(), 0..4);
    // A record, or an array of records.
    let last = prop_oneof![
        2 => records().prop_map(|records| (Value::from(records.clone()), records)),
        1 => value()
            .prop_filter("an array holds records", |value| !value.is_array())
            .prop_map(|record| (record.clone(), vec![record])),
    ];
    let last = container(last);
    let middle = (last, value()).prop_map(|((s, records), other)| {
        (
            serde_json::json!({"a": other.clone(), "s": s, "z": other}),
            records,
        )
    });
    let middle = prop_oneof![5 => middle, 1 => Just((serde_json::json!({"x": [1]}), Vec::new()))];
    let document = (container(middle), value()).prop_map(|((r, records), other)| {
        (
            serde_json::json!({"before": other.clone(), "r": r, "z": other}),
            records,
        )
    });
    (document, any::<bool>()).prop_map(|((document, records), pretty)| {
        let text = if pretty {
            format!("{document:#}")
        } else {
            document.to_string()
        };
        (text, records)
    })
}

/// Children in an array, or in an object, whose keys `serde_json` sorts.
fn container(
    child: impl Strategy<Value = (Value, Vec<Value>)>,
) -> impl Strategy<Value = (Value, Vec<Value>)> {
    let children = prop::collection::btree_map("[a-c{}\"\\\\]{0,3}", child, 0..4);
    (children, any::<bool>()).prop_map(|(children, is_object)| {
        let records = children
            .values()
            .flat_map(|(_, records)| records.clone())
            .collect();
        let children = children.into_iter().map(|(key, (child, _))| (key, child));
        let container = if is_object {
            Value::Object(children.collect())
        } else {
            Value::Array(children.map(|(_, child)| child).collect())
        };
        (container, records)
    })
}

proptest! {
    #[test]
    fn records_are_those_to_which_the_pointer_leads(
        (text, records) in document(), limits in limits(),
    ) {
        match texts_of(&each("/r/*/s/*"), text.as_bytes(), limits) {
            Ok(texts) => {
                let parsed: Vec<Value> =
                    texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
                prop_assert_eq!(parsed, records, "{}", text);
            }
            Err(Unreadable::Malformed { detail, .. }) => {
                prop_assert!(records.is_empty() && detail.contains("no array"), "{}: {}", text, detail);
            }
            Err(error) => return Err(TestCaseError::fail(format!("{text}: {error}"))),
        }
    }

    #[test]
    fn a_truncated_document_is_incomplete(
        (text, _) in document(), at in any::<prop::sample::Index>(),
    ) {
        let mut end = 1 + at.index(text.len() - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = cut(&text.as_bytes()[..end], &each("/r/*/s/*"), NO_LIMITS);
        prop_assert!(matches!(cut, Err(Unreadable::Incomplete { .. })), "{}: {:?}", &text[..end], cut);
    }

    #[test]
    fn limits_of_chunks_change_no_record_of_each(
        (text, _) in document(), one in limits(), other in limits(),
        at in any::<prop::sample::Index>(), byte in "[\\[\\]{}\",\\\\ \nx1]",
        pointer in prop::sample::select(vec!["/r/*/s/*", "/r/*/s", "/r/*", "/*", "/r/*/*"]),
        format in prop::sample::select(vec!["document", "sequence", "auto"]),
    ) {
        // One byte is changed, so that documents which are not JSON are covered as well.
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte.as_bytes()[0];
        let dataset = defined(&format!("format = '{format}'\nrecords = '{pointer}'"));
        let one = texts_of(&dataset, &bytes, one);
        prop_assert_eq!(one, texts_of(&dataset, &bytes, other));
    }

    #[test]
    fn any_bytes_are_cut_at_each_or_refused_without_a_panic(
        bytes in prop::collection::vec(prop_oneof![
            6 => prop::sample::select(b"[]{}\",:\\\n 1".to_vec()),
            1 => any::<u8>(),
        ], 0..400),
        start in "(\\[|\\{|\\{\"r\":\\{\"a\":\\[|\\{\"r\":\\[\\[1\\],)?",
        pointer in prop::sample::select(vec!["/r/*", "/*", "/r/*/s"]),
        limits in limits(),
    ) {
        let bytes = [start.as_bytes(), &bytes].concat();
        let dataset = each(pointer);
        let limited = texts_of(&dataset, &bytes, limits);
        prop_assert_eq!(limited, texts_of(&dataset, &bytes, NO_LIMITS));
    }
}
