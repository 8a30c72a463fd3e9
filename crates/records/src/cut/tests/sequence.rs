//! Sequences: tables of values and separators, and the records that `serde_json` sees.

use serde_json::Deserializer;

use super::shapes::shape;
use super::*;

/// The records are in `/data/items`, or are objects with one of the fields `a`, `b` and `id`.
static SEQUENCE: LazyLock<Arc<Dataset>> = LazyLock::new(|| defined("format = 'sequence'"));

/// The texts of the records, or why there are none.
fn joined(text: &str) -> Result<String, Unreadable> {
    let texts = texts_of(&SEQUENCE, text.as_bytes(), NO_LIMITS)?;
    let texts = texts.iter().map(|text| str::from_utf8(text).unwrap());
    Ok(texts.collect::<Vec<_>>().join("|"))
}

#[test]
fn each_value_is_found_whatever_separates_it() {
    for (text, expected) in [
        ("", ""),
        (" \n", ""),
        ("\u{1e}\n", ""),
        ("{\"a\":1}", "{\"a\":1}"),
        ("{\"a\":1}{\"a\":2}", "{\"a\":1}|{\"a\":2}"),
        ("\u{feff}{\"a\":1}\n{}\n", "{\"a\":1}|{}"),
        ("{\"a\":1}\r\n\r\n \t{\"a\":2}\r\n", "{\"a\":1}|{\"a\":2}"),
        ("{\"a\":1},\n{\"a\":2},\n", "{\"a\":1}|{\"a\":2}"),
        // RFC 8142.
        (
            "\u{1e}{\"a\":1}\n\u{1e}{\n \"a\":2\n}\n",
            "{\"a\":1}|{\n \"a\":2\n}",
        ),
        // What looks like a boundary in a text is none.
        (
            "{\"a\":\"}{\\\"}{\"}{\"a\":\"\\\\\"}",
            "{\"a\":\"}{\\\"}{\"}|{\"a\":\"\\\\\"}",
        ),
        ("{\"a\":{\"b\":[{}]}}{}", "{\"a\":{\"b\":[{}]}}|{}"),
        // Arrays hold records.
        ("[1,{}][]\n[ 2 ,\n3]{\"a\":1}", "1|{}|2|3|{\"a\":1}"),
        ("[1,]\n[ ,2]{\"a\":1}", "1|||2|{\"a\":1}"),
        // Envelopes, each with an array of its own.
        (
            "{\"data\":{\"items\":[1,2]}}\n{\"data\":{\"items\":[]}}{\"x\":[9],\"data\":{\"y\":{},\
             \"items\":[ 3 ]},\"z\":1}",
            "1|2|3",
        ),
        ("{\"d\\u0061ta\" : {\"it\\u0065ms\":[1]}}", "1"),
        // An object without the array is a record.
        (
            "{\"data\":{\"items\":[1]}}{\"data\":{\"items\":{}}}{\"data\":[2]}{\"items\":[3]}{}",
            "1|{\"data\":{\"items\":{}}}|{\"data\":[2]}|{\"items\":[3]}|{}",
        ),
        // Values that are no records, which the parser rejects.
        (
            "null{\"a\":1}12\n-0.5e3 \"x{\"[]\"\"true,7{}",
            "null|{\"a\":1}|12|-0.5e3|\"x{\"|\"\"|true|7|{}",
        ),
        // Bad records whose brackets close.
        (
            "{\"a\":1,,}{\"a\":2}{tru}{\"a\":[1}}",
            "{\"a\":1,,}|{\"a\":2}|{tru}|{\"a\":[1}}",
        ),
        (
            "{\"a\" {\"x\":[1]}}{,{\"x\":1}}{\"b\":\"\u{1}\"}",
            "{\"a\" {\"x\":[1]}}|{,{\"x\":1}}|{\"b\":\"\u{1}\"}",
        ),
        ("[tru,{\"a\":1,,}]", "tru|{\"a\":1,,}"),
        (
            "{\"a\":1}{\"data\":{\"x\":[1]},,}",
            "{\"a\":1}|{\"data\":{\"x\":[1]},,}",
        ),
    ] {
        assert_eq!(joined(text), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn what_is_broken_between_values_refuses_the_file() {
    for (text, place, expected) in [
        ("hello", 0, "expected a value of the sequence, found `h`"),
        ("{\"a\":1}x{\"a\":2}", 7, "found `x`"),
        ("{\"a\":1} tru {\"a\":2}", 8, "found `t`"),
        ("{\"a\":1};{\"a\":2}", 7, "found `;`"),
        ("{\"a\":1}}{\"a\":2}", 7, "found `}`"),
        ("{\"a\":1}]", 7, "found `]`"),
        ("nullnull", 4, "found `n`"),
        ("{\"a\":1}01", 7, "found `0`"),
        ("{\"a\":1}\"x\ny\"", 9, "found `\\n`"),
        ("{\"a\":1}\u{feff}{}", 7, "found `\\u{feff}`"),
        ("{\"a\":1}\n{\"a\":2]\n{}", 8, "is closed by `]`"),
        ("[1}", 2, "is closed by `}`"),
        ("{\"a\":1}[{} {}]", 11, "expected `,` or `]`"),
        // A record that lacks a bracket holds the next ones.
        (
            "{\"a\":1}\n{\"a\":{\"b\":2}\n{\"a\":3}\n",
            8,
            "before the next one (at byte 21)",
        ),
        (
            "{\"a\":1}{\"data\":{\"items\":[2]}{\"a\":3}",
            7,
            "before the next one (at byte 28)",
        ),
        // A broken envelope.
        ("{\"data\":{\"items\":[{}{}]}}", 20, "expected `,` or `]`"),
        ("{\"data\":{\"items\":[1]},,}", 22, "not JSON outside"),
        (
            "{\"x\":tru,\"data\":{\"items\":[1]}}",
            5,
            "not JSON outside",
        ),
        (
            "{\"data\":{\"items\":[1],\"items\":[2]}}",
            29,
            "a second time",
        ),
        // Nothing of the dataset.
        (
            "\n{\"x\":1}{\"y\":[{}]}",
            1,
            "no value has an array of records at `/data/items`",
        ),
        ("1 2", 0, "no value has an array of records"),
    ] {
        match joined(text) {
            Err(Unreadable::Malformed { offset, detail }) => {
                assert!(detail.contains(expected), "{text}: {detail}");
                assert_eq!(offset, place, "{text}: {detail}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_sequence_without_a_pointer_has_records_only() {
    let dataset = defined("records = ''\nformat = 'sequence'");
    for (text, expected) in [
        ("{\"x\":1}{\"data\":{\"items\":[1,2]}}", "sequence 2"),
        ("{}", "sequence 1"),
        ("{\"items\":[],,}{}", "sequence 2"),
        ("[1,2]{}", "sequence 3"),
        ("[]", "nothing"),
        ("1 2", "refused at 0"),
    ] {
        assert_eq!(shape(&dataset, text), expected, "{text}");
    }
}

#[test]
fn a_sequence_holds_records_of_one_dataset() {
    let dataset = |name: &str| {
        let columns = "columns = [{name = 'x', field = '/id', type = 'text'}]";
        toml::from_str(&format!("name = '{name}'\nformat = 'sequence'\n{columns}")).unwrap()
    };
    let datasets = Datasets::new(vec![dataset("one"), dataset("two")]).unwrap();
    let own = datasets.by_name("one").unwrap();
    let of = datasets.of_file(b"name", Some(own)).unwrap();
    for (text, expected) in [
        ("{\"one\":[1],\"two\":[]}{\"one\":[2]}", Ok(2)),
        ("{\"one\":[1]}{\"one\":[2],\"two\":[3]}", Err(30)),
        ("{\"one\":[1]}{\"two\":[3]}", Err(20)),
        // A record may have a member of any name.
        ("{\"one\":[1]}{\"id\":2,\"two\":[3,tru]}", Ok(2)),
    ] {
        let plans = cut_each(text.as_bytes(), &of, NO_LIMITS);
        match (plans, expected) {
            (Ok(plans), Ok(records)) => {
                let [(dataset, plan)] = &plans[..] else {
                    panic!("{text}: {} plans", plans.len());
                };
                assert_eq!((dataset, plan.records), (own, records), "{text}");
                assert_eq!(*plan, cut(text.as_bytes(), own, NO_LIMITS).unwrap());
            }
            (Err(Unreadable::Malformed { offset, detail }), Err(place)) => {
                assert_eq!(offset, place, "{text}: {detail}");
                assert!(detail.contains("`/two`"), "{detail}");
            }
            (plans, _) => panic!("{text}: {plans:?}"),
        }
    }
}

#[test]
fn chunks_are_as_large_as_the_limits_allow() {
    let chunks = |text: &str, records, bytes| {
        let limits = ChunkLimits { records, bytes };
        texts_of(&SEQUENCE, text.as_bytes(), limits).unwrap();
        let plan = cut(text.as_bytes(), &SEQUENCE, limits).unwrap();
        let text = |chunk: &Chunk| {
            let text = &text[chunk.start as usize..chunk.end as usize];
            format!("{:?} {} {text}", chunk.layout, chunk.records)
        };
        plan.chunks.iter().map(text).collect::<Vec<_>>()
    };
    let records = "\u{1e}{\"a\":1}\n\u{1e}{\"a\":2}\n\u{1e}{\"a\":3}\n";
    let two = "Values 2 {\"a\":1}\n\u{1e}{\"a\":2}";
    assert_eq!(chunks(records, 2, 100), [two, "Values 1 {\"a\":3}"]);
    assert_eq!(chunks(records, 9, 16), [two, "Values 1 {\"a\":3}"]);
    assert_eq!(chunks(records, 0, 0).len(), 3);
    // Small envelopes share a chunk; a large one is cut into parts of its array.
    let [one, three, four] =
        ["1", "1,2,3", "1,2,3,4"].map(|all| format!("{{\"data\":{{\"items\":[{all}]}}}}"));
    let text = format!("{one}\n{one}\n{four}\n{one}\n{{\"a\":1}}{three}");
    assert_eq!(
        chunks(&text, 3, 60),
        [
            format!("Sequence 2 {one}\n{one}"),
            "Array 3 1,2,3".to_owned(),
            "Array 1 4".to_owned(),
            format!("Sequence 2 {one}\n{{\"a\":1}}"),
            format!("Sequence 3 {three}"),
        ]
    );
    assert_eq!(
        chunks(&text, u32::MAX, usize::MAX),
        [format!("Sequence 11 {text}")]
    );
    // A million small envelopes are few chunks.
    let many = one.repeat(1_000_000);
    assert!(chunks(&many, u32::MAX, 1 << 20).len() < 30);
}

#[test]
fn an_envelope_is_found_whatever_its_size() {
    let filler = format!("\"{}\"", "x".repeat(SEARCHED_BYTES));
    for (text, expected) in [
        (
            format!("{{\"data\":{{\"items\":[{filler},2]}}}}{{\"a\":1}}"),
            Ok(3),
        ),
        (
            format!("{{\"x\":{filler},\"data\":{{\"items\":[1,2]}}}}"),
            Ok(2),
        ),
        (format!("{{\"x\":{filler},\"a\":{{}}}}"), Ok(1)),
        (format!("{{\"a\":{filler},,\"b\":{{}}}}{{}}"), Ok(2)),
        (
            format!("{{\"a\":[{filler},\"data\"],,\"b\":{{}}}}{{}}"),
            Ok(2),
        ),
        (format!("{{\"a\":{filler},,\"data\":{{}}}}"), Ok(1)),
        (format!("{{\"x\":{filler},\"b\":{{}}"), Err("incomplete")),
        (
            format!("{{\"a\":{filler},,\"data\":{{\"items\":[1]}}}}"),
            Err("malformed"),
        ),
    ] {
        let found = match cut(text.as_bytes(), &SEQUENCE, NO_LIMITS) {
            Ok(_) => Ok(texts_of(&SEQUENCE, text.as_bytes(), NO_LIMITS)
                .unwrap()
                .len()),
            Err(Unreadable::Incomplete { .. }) => Err("incomplete"),
            Err(Unreadable::Malformed { .. }) => Err("malformed"),
        };
        let ends = [&text[..20], &text[text.len() - 40..]];
        assert_eq!(found, expected, "{ends:?}");
    }
}

/// Larger than the part of an object that is searched for its end before it is walked.
const SEARCHED_BYTES: usize = 1 << 20;

/// A sequence of values that are records, arrays of records or envelopes, and its records.
fn sequence() -> impl Strategy<Value = (String, Vec<Value>)> {
    let object = prop::collection::hash_map("[a-c{}\"]{0,2}", value(), 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()));
    let records = || prop::collection::vec(value(), 0..4);
    let separators = "[ \t\r\n,\x1e]{0,3}";
    let one = prop_oneof![
        3 => object.prop_map(|record| (record.clone(), vec![record])),
        1 => records().prop_map(|records| (Value::from(records.clone()), records)),
        2 => (records(), value()).prop_map(|(records, other)| {
            let envelope = serde_json::json!({
                "before": other.clone(), "data": {"b": other.clone(), "items": records, "z": 1},
                "other": other,
            });
            (envelope, records)
        }),
    ];
    prop::collection::vec((one, any::<bool>(), separators), 0..12).prop_map(
        |values: Vec<((Value, Vec<Value>), bool, String)>| {
            // The first record has a field of the dataset.
            let mut text = "\u{1e}{\"id\":0}".to_owned();
            let mut all = vec![serde_json::json!({"id": 0})];
            for ((value, records), pretty, separators) in values {
                let value = if pretty {
                    format!("{value:#}")
                } else {
                    value.to_string()
                };
                text += &value;
                text += &separators;
                all.extend(records);
            }
            (text, all)
        },
    )
}

proptest! {
    #[test]
    fn records_of_a_sequence_are_those_of_its_values(
        (text, records) in sequence(), limits in limits(),
    ) {
        let texts = texts_of(&SEQUENCE, text.as_bytes(), limits).unwrap();
        let parsed: Vec<Value> =
            texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
        prop_assert_eq!(parsed, records, "{}", text);
    }

    /// Each prefix has the values that `serde_json` reads before the end of the input, or is
    /// incomplete as `serde_json` says.
    #[test]
    fn a_truncated_sequence_is_incomplete_or_ends_between_values(
        (text, _) in sequence(), at in any::<prop::sample::Index>(),
    ) {
        let mut end = at.index(text.len() + 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let prefix = &text[..end];
        let mut values = Vec::new();
        let mut is_whole = true;
        let mut rest = prefix;
        loop {
            rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',', '\u{1e}']);
            let mut stream = Deserializer::from_str(rest).into_iter::<Value>();
            match stream.next() {
                None => break,
                Some(Ok(value)) => values.push(value),
                Some(Err(error)) => {
                    prop_assert!(error.is_eof(), "{}: {}", prefix, error);
                    is_whole = false;
                    break;
                }
            }
            rest = &rest[stream.byte_offset()..];
        }
        let records: Vec<Value> = values.into_iter().flat_map(|value| match value {
            Value::Array(records) => records,
            value => match value.pointer("/data/items") {
                Some(Value::Array(records)) => records.clone(),
                _ => vec![value],
            },
        }).collect();
        match texts_of(&SEQUENCE, prefix.as_bytes(), NO_LIMITS) {
            Ok(texts) => {
                let parsed: Vec<Value> =
                    texts.iter().map(|text| serde_json::from_slice(text).unwrap()).collect();
                prop_assert!(is_whole, "{}", prefix);
                prop_assert_eq!(parsed, records, "{}", prefix);
            }
            Err(error) => {
                let waits = matches!(error, Unreadable::Incomplete { .. });
                prop_assert!(waits && !is_whole, "{}: {}", prefix, error);
            }
        }
    }

    #[test]
    fn limits_of_chunks_change_no_record_of_a_sequence(
        (text, _) in sequence(), one in limits(), other in limits(),
        at in any::<prop::sample::Index>(), byte in "[\\[\\]{}\",\\\\ \nx1\u{1e}]",
    ) {
        // One byte is changed, so that sequences which are not JSON are covered as well.
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte.as_bytes()[0];
        let one = texts_of(&SEQUENCE, &bytes, one);
        prop_assert_eq!(one, texts_of(&SEQUENCE, &bytes, other));
    }

    #[test]
    fn any_bytes_are_a_sequence_or_refused_without_a_panic(
        bytes in prop::collection::vec(prop_oneof![
            6 => prop::sample::select(b"[]{}\",:\\\n\x1e 1".to_vec()),
            1 => any::<u8>(),
        ], 0..400),
        start in "(\\[|\\{|\\{\"data\":\\{\"items\":\\[|\\{\"a\":1\\})?",
        limits in limits(),
    ) {
        let bytes = [start.as_bytes(), &bytes].concat();
        let limited = texts_of(&SEQUENCE, &bytes, limits);
        prop_assert_eq!(limited, texts_of(&SEQUENCE, &bytes, NO_LIMITS));
    }
}
