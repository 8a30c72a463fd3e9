//! A slow second implementation of the rules, and the parser compared with it on generated and on
//! damaged records.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::dataset::{Column, ColumnType};

/// A member as it is in a file: its key, its value, and the code of the value's problem.
type Member = (&'static str, &'static str, Option<RejectCode>);

fn member() -> impl Strategy<Value = Member> {
    use RejectCode::InvalidJson;
    let key = prop::sample::select(vec![
        "t", "t", "t", "\\u0074", "n", "f", "b", "at", "day", "j", "p", "w", "u", "v", "\\\"{", "",
    ]);
    let value = prop::sample::select(vec![
        ("\"abc\"", None),
        (r#""\u00e9\n\\\"""#, None),
        ("\"🦀🦀🦀🦀🦀\"", None),
        ("\"]}, {[\"", None),
        ("12", None),
        ("-0.0", None),
        ("1.50e1", None),
        ("18446744073709551615", None),
        ("true", None),
        ("null", None),
        ("{}", None),
        ("[ 1, {\"x\" : [ ]} ]", None),
        ("{\"q/r\": [0, \"z\"], \"x\":1}", None),
        ("{\"x\": 7,\t\"y\":[[],{}]}", None),
        ("\"2022-06-05T21:02:34Z\"", None),
        ("1e400", None),
        ("123456789012345678901234567890", None),
        ("{\"x\" 1}", Some(InvalidJson)),
        ("01", Some(InvalidJson)),
        ("\"\\ud800\"", Some(InvalidJson)),
    ]);
    // One bad value in eight is kept: with more, hardly any record would become a row.
    let value = (value, 0..8).prop_map(|((text, wrong), luck)| match wrong {
        Some(_) if luck > 0 => ("\"ok\"", None),
        wrong => (text, wrong),
    });
    (key, value).prop_map(|(key, (text, wrong))| (key, text, wrong))
}

/// The slow implementation: reads `serde_json`'s values, one column after the other.
fn oracle(dataset: &Dataset, members: &[Member]) -> Outcome {
    let unescape = |key| serde_json::from_str::<String>(&format!("\"{key}\"")).unwrap();
    if let Some((key, _, Some(wrong))) = members.iter().find(|member| member.2.is_some()) {
        return Err((*wrong, Some(unescape(key))));
    }
    let mut cells = vec![None; dataset.columns.len() + 1];
    let (mut names, mut rescued) = (Vec::new(), Vec::new());
    let (mut problem, mut late): (Option<(RejectCode, Option<String>)>, Option<_>) = (None, None);
    for (key, raw, _) in members {
        let name = unescape(key);
        // serde_json refuses a number beyond a float. Numbers are read from their text anyway.
        let value = serde_json::from_str(raw).unwrap_or_else(|_| Value::from(0));
        let known = |column: &&Column| {
            column.fields()[0] == format!("/{name}")
                || column.fields()[0].starts_with(&format!("/{name}/"))
        };
        let columns: Vec<_> = dataset.columns.iter().filter(known).collect();
        let repeated = names.contains(&name);
        if columns.is_empty() {
            if repeated
                && late
                    .as_ref()
                    .is_none_or(|other: &(_, Option<String>)| Some(&name) < other.1.as_ref())
            {
                late = Some((RejectCode::DuplicateField, Some(name.clone())));
            }
            rescued.push(format!("\"{key}\":{raw}"));
        } else if repeated {
            let itself = columns
                .iter()
                .find(|column| column.fields()[0] == format!("/{name}"));
            let field = itself.map_or(&name, |column| &column.name);
            problem = problem.or(Some((RejectCode::DuplicateField, Some(field.clone()))));
        } else {
            let is_whole = columns
                .iter()
                .any(|column| column.fields()[0] == format!("/{name}"));
            let mut left = value.clone();
            for column in &columns {
                if let Some(taken) = left.pointer_mut(&column.fields()[0][name.len() + 1..]) {
                    *taken = Value::String(TAKEN.to_owned());
                }
            }
            if !is_whole && !value.is_null() && holds_any(&left) {
                rescued.push(format!("\"{key}\":{raw}"));
            }
            for column in columns {
                let at = dataset.column(&column.name).unwrap().0;
                let inner = &column.fields()[0][name.len() + 1..];
                let (value, raw) = match inner {
                    "" => (Some(&value), (*raw).to_owned()),
                    pointer => {
                        let value = value.pointer(pointer);
                        (value, value.map(Value::to_string).unwrap_or_default())
                    }
                };
                match value.map_or(Ok(None), |value| slowly(column, value, &raw)) {
                    Ok(cell) => cells[at] = cell,
                    Err(code) => problem = problem.or(Some((code, Some(column.name.clone())))),
                }
            }
        }
        names.push(name);
    }
    let missing = (cells[0].is_none()).then(|| (RejectCode::MissingField, Some("t".to_owned())));
    if let Some(problem) = problem.or(late).or(missing) {
        return Err(problem);
    }
    cells[6].get_or_insert_with(|| "[]".to_owned());
    if !rescued.is_empty() {
        cells[10] = Some(format!("{{{}}}", rescued.join(",")));
    }
    Ok(cells)
}

/// Replaces a value that a column took.
const TAKEN: &str = "\0taken";

fn holds_any(value: &Value) -> bool {
    match value {
        Value::Array(elements) if !elements.is_empty() => elements.iter().any(holds_any),
        Value::Object(members) if !members.is_empty() => members.values().any(holds_any),
        other => other != TAKEN,
    }
}

fn slowly(column: &Column, value: &Value, raw: &str) -> Result<Option<String>, RejectCode> {
    use RejectCode::{InvalidTimestamp, NumberRange, TextTooLong, WrongType};
    let text = match (column.kind, value) {
        (_, Value::Null) => return Ok(None),
        (ColumnType::Text, Value::String(text)) => text.clone(),
        (ColumnType::Text, Value::Number(_) | Value::Bool(_)) | (ColumnType::Json, _) => {
            raw.to_owned()
        }
        (ColumnType::Integer, Value::Number(_)) if raw.contains(['.', 'e', 'E']) => {
            return Err(WrongType);
        }
        (ColumnType::Integer, Value::Number(_)) => {
            raw.parse::<i64>().map_err(|_| NumberRange)?.to_string()
        }
        (ColumnType::Float, Value::Number(_)) => match raw.parse::<f64>() {
            Ok(float) if float.is_finite() => format!("{float:?}"),
            _ => return Err(NumberRange),
        },
        (ColumnType::Boolean, Value::Bool(truth)) => truth.to_string(),
        (ColumnType::Timestamp, Value::String(text)) => crate::timestamp::parse(text)
            .ok_or(InvalidTimestamp)?
            .to_string(),
        (ColumnType::Timestamp, Value::Number(_)) => {
            let unit = column.epoch.ok_or(WrongType)?;
            crate::timestamp::from_epoch(raw, unit)
                .ok_or(InvalidTimestamp)?
                .to_string()
        }
        _ => return Err(WrongType),
    };
    let too_long = column.kind == ColumnType::Text && text.chars().count() > 5;
    if too_long {
        Err(TextTooLong)
    } else {
        Ok(Some(text))
    }
}

/// The members of records, and a document that holds these records.
fn document() -> impl Strategy<Value = (Vec<Vec<Member>>, String)> {
    let members = prop::collection::vec(member(), 0..6);
    let blank = prop::sample::select(vec!["", "", " ", "\t "]);
    let records = prop::collection::vec((members, blank), 1..12);
    (records, any::<bool>()).prop_map(|(mut records, lines)| {
        if lines {
            // With `{}` as the first and the last line, the file is lines whatever the others hold.
            records[0].0.clear();
            records.push((Vec::new(), ""));
        }
        let text = |(members, blank): &(Vec<Member>, &str)| {
            let member =
                |(key, value, _): &Member| format!("\"{key}\"{blank}:{blank}{value}{blank}");
            let members: Vec<_> = members.iter().map(member).collect();
            format!("{{{blank}{}}}{blank}", members.join(&format!(",{blank}")))
        };
        let texts: Vec<_> = records.iter().map(text).collect();
        let text = if lines {
            texts.join("\n \n") + "\n"
        } else {
            format!("[{}]", texts.join(" ,\n"))
        };
        (records.into_iter().map(|record| record.0).collect(), text)
    })
}

/// The text of a record with these members.
fn text_of(members: &[Member]) -> String {
    let members = members
        .iter()
        .map(|(key, value, _)| format!("\"{key}\":{value}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// The members of records, and a sequence that holds these records: each as a value, or some of
/// them in an array or in an envelope.
fn sequence() -> impl Strategy<Value = (Vec<Vec<Member>>, String)> {
    let records = prop::collection::vec(prop::collection::vec(member(), 0..6), 0..4);
    let values = prop::collection::vec((records, 0..3, "[ ,\n\x1e]{0,2}"), 0..6);
    (any::<bool>(), values).prop_map(|(only_values, values)| {
        // A field of the dataset, so that the sequence is certainly of the dataset.
        let mut all = vec![vec![("t", "\"abc\"", None)]];
        let mut text = text_of(&all[0]);
        for (records, form, separators) in values {
            let texts: Vec<_> = records.iter().map(|members| text_of(members)).collect();
            let value = match form {
                1 if !only_values => format!("[{}]", texts.join(" ,")),
                2 if !only_values => format!("{{\"x\":[{{}}],\"trips\":[{}]}}", texts.join(",\n")),
                _ => texts.join(&separators),
            };
            text += &value;
            text += &separators;
            all.extend(records);
        }
        (all, text)
    })
}

/// A document of which a few bytes have been changed.
fn mutated_document() -> impl Strategy<Value = Vec<u8>> {
    mutated(document().prop_map(|(_, text)| text))
}

fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let mutation = (any::<prop::sample::Index>(), any::<u8>());
    let mutations = prop::collection::vec(mutation, 1..4);
    (text, mutations).prop_map(|(text, mutations)| {
        let mut bytes = text.into_bytes();
        for (at, byte) in mutations {
            const STRUCTURE: &[u8; 17] = b"[]{}\",:\\ 1au\n.-0e";
            let at = at.index(bytes.len());
            bytes[at] = if byte < 128 {
                STRUCTURE[byte as usize % STRUCTURE.len()]
            } else {
                byte
            };
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_rules_hold_for_chunks_of_any_size(
        (records, text) in document(), records_max in 0_u32..6, bytes in 0_usize..400,
    ) {
        let dataset = all_kinds();
        let expected: Vec<_> = records.iter().map(|members| oracle(&dataset, members)).collect();
        let whole = outcomes(&dataset, text.as_bytes(), NO_LIMITS);
        prop_assert_eq!(&whole, &expected, "{}", text);
        let limits = ChunkLimits { records: records_max, bytes };
        prop_assert_eq!(outcomes(&dataset, text.as_bytes(), limits), whole, "{}", text);
    }

    #[test]
    fn serde_json_agrees_which_records_are_json(
        bytes in mutated_document(), limit in 1_u32..6,
    ) {
        let dataset = all_kinds();
        let Ok(plan) = cut::cut(&bytes, &dataset, NO_LIMITS) else { return Ok(()) };
        let all = outcomes(&dataset, &bytes, NO_LIMITS);
        let limits = ChunkLimits { records: limit, bytes: usize::MAX };
        prop_assert_eq!(&outcomes(&dataset, &bytes, limits), &all);
        let mut all = all.into_iter();
        for chunk in plan.chunks {
            let bytes = &bytes[chunk.start as usize..chunk.end as usize];
            for range in cut::records(bytes, chunk.layout, &dataset) {
                let record = &bytes[range];
                let json = serde_json::from_slice::<Value>(record);
                let shown = String::from_utf8_lossy(record);
                let outcome = all.next().unwrap();
                // serde_json refuses a number beyond its floats, although it is JSON.
                if json.as_ref().is_err_and(|e| e.to_string().contains("number out of range")) {
                    continue;
                }
                let json_for_us = match outcome {
                    Err((code, _)) => code != RejectCode::InvalidJson,
                    Ok(_) => true,
                };
                prop_assert_eq!(json_for_us, json.is_ok(), "{}", shown);
            }
        }
    }

    /// Most of the records are plain, and a few others are between them.
    #[test]
    fn the_rules_hold_for_other_records_among_plain_ones(
        (others, _) in document(), apart in 1_usize..30, lines in any::<bool>(),
    ) {
        let dataset = all_kinds();
        let plain: [Member; 3] = [("t", "\"abc\"", None), ("n", "12", None), ("u", "[{}]", None)];
        let mut records = vec![plain.to_vec()];
        for other in others {
            records.extend(vec![plain.to_vec(); apart]);
            records.push(other);
        }
        let expected: Vec<_> = records.iter().map(|members| oracle(&dataset, members)).collect();
        let texts: Vec<_> = records.iter().map(|members| text_of(members)).collect();
        let text = if lines { texts.join("\n") } else { format!("[{}]", texts.join(",")) };
        prop_assert_eq!(outcomes(&dataset, text.as_bytes(), NO_LIMITS), expected, "{}", text);
    }

    #[test]
    fn the_rules_hold_for_sequences(
        (records, text) in sequence(), records_max in 0_u32..6, bytes in 0_usize..400,
    ) {
        let dataset = all_kinds_of("sequence");
        let expected: Vec<_> = records.iter().map(|members| oracle(&dataset, members)).collect();
        let whole = outcomes(&dataset, text.as_bytes(), NO_LIMITS);
        prop_assert_eq!(&whole, &expected, "{}", text);
        let limits = ChunkLimits { records: records_max, bytes };
        prop_assert_eq!(outcomes(&dataset, text.as_bytes(), limits), whole, "{}", text);
    }

    #[test]
    fn chunks_of_a_damaged_sequence_change_no_outcome(
        bytes in mutated(sequence().prop_map(|(_, text)| text)),
        records_max in 0_u32..6, bytes_max in 0_usize..400,
    ) {
        let dataset = all_kinds_of("sequence");
        if cut::cut(&bytes, &dataset, NO_LIMITS).is_ok() {
            let whole = outcomes(&dataset, &bytes, NO_LIMITS);
            let limits = ChunkLimits { records: records_max, bytes: bytes_max };
            prop_assert_eq!(outcomes(&dataset, &bytes, limits), whole);
        }
    }

    #[test]
    fn both_routes_make_the_same_row_of_a_plain_record(bytes in mutated_document()) {
        let dataset = all_kinds();
        let Ok(plan) = cut::cut(&bytes, &dataset, NO_LIMITS) else { return Ok(()) };
        let records = plan.chunks.iter().flat_map(|chunk| {
            let bytes = &bytes[chunk.start as usize..chunk.end as usize];
            let records = cut::records(bytes, chunk.layout, &dataset).into_iter();
            records.map(move |range| (&bytes[range], chunk.layout))
        });
        for (record, layout) in records {
            let Ok(text) = str::from_utf8(record) else { continue };
            let Some(direct) = read_directly(&dataset, layout, text) else { continue };
            let mut parser = Parser::default();
            let shape = parser.shape(&dataset);
            let mut walked = Output::new(&dataset, ONE, 0);
            let source = Source { bytes: record, origin: 0, layout };
            let outside = Outside::default();
            let fixed = Fixed::new(&dataset, &[], &outside);
            parser.parse_each(&shape, &fixed, &mut walked, source);
            prop_assert_eq!(&walked.rejects, &[], "{}", text);
            prop_assert_eq!(walked.columns.finish(&shape.schema), direct, "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic(
        bytes in prop::collection::vec(prop_oneof![
            6 => prop::sample::select(b"[]{}\",:\\ 1etu".to_vec()),
            1 => any::<u8>(),
        ], 0..200),
        lines in any::<bool>(),
    ) {
        let document = if lines {
            [b"{}\n", bytes.as_slice(), b"\n"].concat()
        } else {
            [b"[", bytes.as_slice(), b"]"].concat()
        };
        if cut::cut(&document, &all_kinds(), NO_LIMITS).is_ok() {
            outcomes(&all_kinds(), &document, NO_LIMITS);
        }
    }
}
