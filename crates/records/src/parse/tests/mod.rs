//! The rules of parsing, one case at a time. Properties that hold for all records are in `oracle`.

mod conversions;
mod oracle;
mod outside;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::*;
use crate::cut::ChunkLimits;
use crate::dataset::Datasets;
use crate::{convert, dates};

const FILE: SourceFile = SourceFile {
    file_no: 7,
    hash: [0; 16],
};

const NO_LIMITS: ChunkLimits = ChunkLimits {
    records: u32::MAX,
    bytes: usize::MAX,
};

/// A column of each kind, and pointers into members.
fn all_kinds() -> Arc<Dataset> {
    all_kinds_of("auto")
}

/// As [`all_kinds`], with this format of the files.
fn all_kinds_of(format: &str) -> Arc<Dataset> {
    let columns = r#"
        strict = true
        columns = [
            { name = "t", type = "text", max_chars = 5 },
            { name = "n", type = "integer", required = false },
            { name = "f", type = "float", required = false },
            { name = "b", type = "boolean", required = false },
            { name = "at", type = "timestamp", required = false, epoch = "ms" },
            { name = "day", type = "timestamp", required = false },
            { name = "j", type = "json", required = false, default = "[]" },
            { name = "deep", type = "text", required = false, field = "/p/q~1r/1" },
            { name = "whole", type = "json", required = false, field = "/w" },
            { name = "part", type = "integer", required = false, field = "/w/x" },
        ]"#;
    dataset(&format!(
        "name = \"trips\"\nformat = \"{format}\"\n{columns}"
    ))
}

fn dataset(definition: &str) -> Arc<Dataset> {
    let dataset: Dataset = toml::from_str(definition).unwrap();
    let name = dataset.name.clone();
    Arc::clone(
        Datasets::new(vec![dataset])
            .unwrap()
            .by_name(&name)
            .unwrap(),
    )
}

fn events() -> Arc<Dataset> {
    Arc::clone(
        Datasets::new(vec![])
            .unwrap()
            .by_name("vehicle_events")
            .unwrap(),
    )
}

/// A record's outcome: its cells as text, or the reject's code and field.
type Outcome = Result<Vec<Option<String>>, (RejectCode, Option<String>)>;

/// Cuts and parses a document, checks the invariants of each batch, and returns the outcome of each
/// record.
fn outcomes(dataset: &Arc<Dataset>, document: &[u8], limits: ChunkLimits) -> Vec<Outcome> {
    let plan = cut::cut(document, dataset, limits).unwrap();
    let mut parser = Parser::default();
    let mut all = Vec::new();
    for chunk in plan.chunks {
        let bytes = &document[chunk.start as usize..chunk.end as usize];
        let outside = chunk.outside(|place| {
            let text = &document[place.start as usize..place.end as usize];
            str::from_utf8(text).map(str::to_owned)
        });
        let outside = outside.unwrap();
        let batch = parser.parse(dataset, FILE, &chunk, bytes, &outside);
        if dataset.takes_around() {
            assert_same_alone(&batch, &chunk, bytes, &outside);
        }
        assert_eq!(batch.rows.schema(), dataset.schema());
        let ids = batch.rows.column(0).as_primitive::<UInt64Type>();
        let (mut row, mut rejects) = (0, batch.rejects.iter().peekable());
        for ordinal in chunk.first_ordinal..chunk.first_ordinal + chunk.records {
            assert_eq!(ordinal as usize, all.len());
            if let Some(reject) = rejects.next_if(|reject| reject.ordinal == ordinal) {
                let place = reject.byte_offset as usize;
                assert!(
                    document[place..].starts_with(&reject.raw),
                    "the raw record is in its place"
                );
                all.push(Err((reject.code, reject.field.clone())));
            } else {
                assert_eq!(ids.value(row), row_id(7, ordinal));
                all.push(Ok(cells(&batch.rows, row)));
                row += 1;
            }
        }
        assert_eq!((row, rejects.next()), (batch.rows.num_rows(), None));
    }
    all
}

/// Each record of a chunk by itself, with the values outside of it, has the same outcome.
fn assert_same_alone(batch: &Batch, chunk: &Chunk, bytes: &[u8], outside: &Outside<'_>) {
    let Batch { dataset, rows, .. } = batch;
    let mut row = 0;
    for (at, place) in cut::records(bytes, chunk.layout, dataset)
        .into_iter()
        .enumerate()
    {
        let outside = cut::outside_of(bytes, chunk.layout, dataset, outside, at);
        let ordinal = chunk.first_ordinal + at as u32;
        let mut parser = Parser::default();
        let alone = parser.parse_record(dataset, FILE, ordinal, &bytes[place], &outside);
        let mut rejects = batch.rejects.iter();
        if let Some(reject) = rejects.find(|reject| reject.ordinal == ordinal) {
            let same = Reject {
                byte_offset: 0,
                ..reject.clone()
            };
            assert_eq!(alone.rejects, [same]);
        } else {
            assert_eq!(alone.rows, rows.slice(row, 1));
            row += 1;
        }
    }
}

fn cells(rows: &RecordBatch, row: usize) -> Vec<Option<String>> {
    let cell = |column: &Arc<dyn Array>| {
        column.is_valid(row).then(|| match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
            DataType::Float64 => format!("{:?}", column.as_primitive::<Float64Type>().value(row)),
            DataType::Boolean => column.as_boolean().value(row).to_string(),
            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
            DataType::Decimal128(..) => {
                column.as_primitive::<Decimal128Type>().value_as_string(row)
            }
            DataType::Date32 => dates::date_text(column.as_primitive::<Date32Type>().value(row)),
            DataType::Time64(_) => {
                dates::time_text(column.as_primitive::<Time64MicrosecondType>().value(row))
            }
            DataType::Binary => convert::hex_text(column.as_binary::<i32>().value(row)),
            _ => column
                .as_primitive::<TimestampMicrosecondType>()
                .value(row)
                .to_string(),
        })
    };
    rows.columns()[1..].iter().map(cell).collect()
}

/// The outcome of a record, which must be the same alone in an array, among good records, and as a
/// line.
fn outcome(dataset: &Arc<Dataset>, record: &str) -> Outcome {
    let alone = outcomes(dataset, format!("[{record}]").as_bytes(), NO_LIMITS);
    assert_eq!(alone.len(), 1, "{record}");
    let good = r#"{"t":"good"}"#;
    let among = outcomes(
        dataset,
        format!("[{good},{record},{good}]").as_bytes(),
        NO_LIMITS,
    );
    assert_eq!(among[1], alone[0], "{record}");
    assert_eq!(among[0], among[2]);
    if !record.contains('\n') {
        let lines = outcomes(
            dataset,
            format!("{good}\n{record}\n{good}\n").as_bytes(),
            NO_LIMITS,
        );
        assert_eq!(lines, among, "{record}");
    }
    alone.into_iter().next().unwrap()
}

/// The span of a single record.
const ONE: Span = Span {
    file_no: 7,
    first_ordinal: 0,
    records: 1,
};

/// The row that the direct reader makes of a record in a file of this layout. `None` if the record
/// is not plain.
fn read_directly(dataset: &Arc<Dataset>, layout: Layout, record: &str) -> Option<RecordBatch> {
    let shape = Parser::default().shape(dataset);
    let mut output = Output::new(dataset, ONE, 0);
    let outside = Outside::default();
    let fixed = Fixed::new(dataset, &[], &outside);
    let mut direct = Direct::new(dataset, &shape.fields, &fixed, layout, record);
    direct.next_record(output.next_id(), &mut output.columns)?;
    assert_eq!(direct.at(), record.len(), "{record}");
    Some(output.columns.finish(&shape.schema))
}

#[test]
fn the_direct_reader_reads_plain_records_only() {
    let dataset = all_kinds();
    let plain = [
        r#"{"t":"abc"}"#,
        "{ \"t\" :\t\"é\" , \"n\": -12 }",
        r#"{"b":true,"t":12.5,"f":0.25,"at":1651784554546,"day":"2022-06-05T21:02:34.546Z"}"#,
        r#"{"t":"a","n":null,"j":{"a":[1,"b\n\u00fc",{}],"c":-0.5}}"#,
        r#"{"t":"a","unknown":[{"b":false}]}"#,
        r#"{"t":"\u0061\ud83e\udd80\n","day":"2022\u002d06-05T21:02:34Z"}"#,
        r#"{"t":"a","j":"\ud83e\udd80","u":"\""}"#,
        r#"{"t":"a","n":1234567890123456789}"#,
        r#"{"t":"a","f":1e3,"j":[123456789012345678901234567890,1e400]}"#,
    ];
    let directly = |layout, record| read_directly(&dataset, layout, record);
    for record in plain {
        assert!(directly(Layout::Lines, record).is_some(), "{record}");
        assert!(directly(Layout::Array, record).is_some(), "{record}");
        assert!(directly(Layout::Values, record).is_some(), "{record}");
    }
    let others = [
        r#"{"t":"\ud83e"}"#,
        r#"{"t":"\u0061bcdef"}"#,
        r#"{"n":"\u0031","t":"a"}"#,
        r#"{"\u0074":"a"}"#,
        r#"{"t":"a","n":12345678901234567890}"#,
        r#"{"t":"a","f":1e999}"#,
        r#"{"t":"a","w":{"x":1}}"#,
        r#"{"t":"too long"}"#,
        r#"{"n":1}"#,
        r#"{"t":"a","t":"a"}"#,
        r#"{"t":"a"},"#,
        r#"{"t":"a",}"#,
        r#"{"t":"a","n":01}"#,
        r#"{"t":"a""#,
        "[]",
        "",
    ];
    for record in others {
        assert!(directly(Layout::Lines, record).is_none(), "{record}");
    }
    // A line feed does not separate two elements of an array: these are one broken record.
    let no_comma = "{\"t\":\"a\"}\n{\"t\":\"b\"}";
    assert!(directly(Layout::Array, no_comma).is_none());
}

#[test]
fn the_sample_of_the_original_becomes_rows() {
    let record = r#"{"vehicle_id": "ebab", "event_time": "2022-06-05T21:02:34.546Z",
        "event_source": "mobile", "event_type": "start_drive", "event_value": "-79.9,9.3",
        "event_extra_data:": {"note": "ok", "boot_time": 12}}"#;
    let document = format!("{{\"vehicle_events\": [{record}]}}");
    let cells = outcomes(&events(), document.as_bytes(), NO_LIMITS)
        .remove(0)
        .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let expected = vec![
        text("ebab"),
        text("1654462954546000"),
        text("mobile"),
        text("start_drive"),
        text("-79.9,9.3"),
        text("{}"),
        text(r#"{"event_extra_data:":{"note": "ok", "boot_time": 12}}"#),
    ];
    assert_eq!(cells, expected);
}

#[test]
fn each_column_accepts_its_values() {
    let dataset = all_kinds();
    // The column, the members that fill it, the cell.
    let cases = [
        (0, r#""t":"é\n\"\\""#, Some("é\n\"\\")),
        (0, r#""t":"12345""#, Some("12345")),
        (0, r#""t":"ééééé""#, Some("ééééé")),
        (0, "\"t\": -0.0 ", Some("-0.0")),
        (0, "\"t\": 1E+2", Some("1E+2")),
        (0, "\"t\":true", Some("true")),
        (0, r#""t":"a\u0000b""#, Some("a\0b")),
        (0, "\"\\u0074\":1", Some("1")),
        (0, "\"t\":1e400", Some("1e400")),
        (
            6,
            "\"t\":1,\"j\":[123456789012345678901234567890, 1e400]",
            Some("[123456789012345678901234567890, 1e400]"),
        ),
        (
            6,
            "\"\\u0074\":\"a\",\"j\":[-123456789012345678901234567890,\"1\"]",
            Some("[-123456789012345678901234567890,\"1\"]"),
        ),
        (
            2,
            "\"f\":123456789012345678901234567890,\"\\u0074\":\"a\"",
            Some("1.2345678901234568e29"),
        ),
        (
            10,
            "\"\\u0074\":\"a\",\"x\":123456789012345678901234567890",
            Some("{\"x\":123456789012345678901234567890}"),
        ),
        (1, "\"n\":-12,\"\\u0074\":\"a\"", Some("-12")),
        (
            1,
            "\"t\":1,\"n\":-9223372036854775808",
            Some("-9223372036854775808"),
        ),
        (
            1,
            "\"t\":1,\"n\":9223372036854775807",
            Some("9223372036854775807"),
        ),
        (1, "\"n\":null,\"t\":1", None),
        (
            2,
            "\"f\":18446744073709551615,\"t\":1",
            Some("1.8446744073709552e19"),
        ),
        (2, "\"f\":-2,\"t\":1", Some("-2.0")),
        (2, "\"f\":1.5e-3,\"t\":1", Some("0.0015")),
        (3, "\"b\":false,\"t\":1", Some("false")),
        (
            4,
            "\"at\":1654462954546.25,\"t\":1",
            Some("1654462954546250"),
        ),
        (4, "\"at\":\"1970-01-01 00:00:01\",\"t\":1", Some("1000000")),
        (6, "\"t\":1", Some("[]")),
        (6, "\"j\":null,\"t\":1", Some("[]")),
        (6, "\"j\": \"a\\u0062\" ,\"t\":1", Some("\"a\\u0062\"")),
        (
            6,
            "\"j\":{ \"a\" : [1 , 2.50, {}]\n}\n,\"t\":1",
            Some("{ \"a\" : [1 , 2.50, {}]\n}"),
        ),
        (
            7,
            "\"p\":{\"z\":[[1],{}],\"q/r\":[0, 1.50]},\"t\":1",
            Some("1.50"),
        ),
        (7, "\"p\":{\"q/r\":[0]},\"t\":1", None),
        (7, "\"p\":7,\"t\":1", None),
        (8, "\"w\":{\"x\": 5},\"t\":1", Some("{\"x\": 5}")),
        (9, "\"w\":{\"x\": 5},\"t\":1", Some("5")),
        (
            10,
            "\"p\":{\"more\":1},\"t\":1",
            Some("{\"p\":{\"more\":1}}"),
        ),
        (10, "\"p\":7,\"t\":1", Some("{\"p\":7}")),
        (10, "\"p\":null,\"t\":1", None),
        (
            10,
            "\"p\":{\"q/r\":[0]},\"t\":1",
            Some("{\"p\":{\"q/r\":[0]}}"),
        ),
        (
            10,
            "\"t\":1,\"a\\u0062\" : [ ] , \"c\":\"}\"",
            Some("{\"a\\u0062\":[ ],\"c\":\"}\"}"),
        ),
    ];
    for (column, members, expected) in cases {
        let cells = outcome(&dataset, &format!("{{{members}}}"));
        let cells = cells.unwrap_or_else(|problem| panic!("{members}: {problem:?}"));
        assert_eq!(cells[column].as_deref(), expected, "{members}");
    }
}

#[test]
fn each_bad_record_is_a_reject_with_code_and_field() {
    use RejectCode::*;
    let dataset = all_kinds();
    let nested = |levels: usize| {
        format!(
            "{{\"t\":1,\"j\":{}{}}}",
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert!(outcome(&dataset, &nested(DEPTH_MAX - 1)).is_ok());
    let (too_deep, absurd) = (nested(DEPTH_MAX), nested(100_000));
    let cases = [
        ("", InvalidJson, None),
        ("7", NotAnObject, None),
        ("null", NotAnObject, None),
        ("\"text\"", NotAnObject, None),
        ("[{\"t\":\"a\"}]", NotAnObject, None),
        ("{}", MissingField, Some("t")),
        ("{\"t\":null}", MissingField, Some("t")),
        ("{\"t\":{}}", WrongType, Some("t")),
        ("{\"t\":[1]}", WrongType, Some("t")),
        ("{\"t\":\"123456\"}", TextTooLong, Some("t")),
        ("{\"t\":\"éééééé\"}", TextTooLong, Some("t")),
        ("{\"t\":1234567}", TextTooLong, Some("t")),
        ("{\"t\":1,\"n\":1.0}", WrongType, Some("n")),
        ("{\"t\":1,\"n\":\"1\"}", WrongType, Some("n")),
        (
            "{\"t\":1,\"n\":9223372036854775808}",
            NumberRange,
            Some("n"),
        ),
        (
            "{\"t\":1,\"n\":123456789012345678901234567890}",
            NumberRange,
            Some("n"),
        ),
        (
            "{\"\\u0074\":\"a\",\"n\":-123456789012345678901234567890}",
            NumberRange,
            Some("n"),
        ),
        ("{\"t\":1,\"n\":1e400}", WrongType, Some("n")),
        ("{\"t\":1,\"f\":1e400}", NumberRange, Some("f")),
        ("{\"\\u0074\":\"a\",\"f\":-1e400}", NumberRange, Some("f")),
        ("{\"t\":1,\"at\":1e400}", InvalidTimestamp, Some("at")),
        ("{\"t\":1,\"f\":\"1\"}", WrongType, Some("f")),
        ("{\"t\":1,\"b\":1}", WrongType, Some("b")),
        ("{\"t\":1,\"b\":\"true\"}", WrongType, Some("b")),
        (
            "{\"t\":1,\"at\":\"2022-02-30T00:00:00Z\"}",
            InvalidTimestamp,
            Some("at"),
        ),
        ("{\"t\":1,\"at\":1e15}", InvalidTimestamp, Some("at")),
        ("{\"t\":1,\"at\":true}", WrongType, Some("at")),
        ("{\"t\":1,\"day\":1}", WrongType, Some("day")),
        ("{\"t\":1,\"t\":1}", DuplicateField, Some("t")),
        ("{\"t\":1,\"\\u0074\":null}", DuplicateField, Some("t")),
        ("{\"t\":1,\"p\":1,\"p\":1}", DuplicateField, Some("p")),
        (
            "{\"t\":1,\"w\":{\"x\":1,\"x\":2}}",
            DuplicateField,
            Some("part"),
        ),
        (
            "{\"u\":1,\"t\":1,\"v\":2,\"\\u0075\":1}",
            DuplicateField,
            Some("u"),
        ),
        // The first of two problems is the reason.
        ("{\"n\":\"\",\"f\":\"\",\"t\":{}}", WrongType, Some("n")),
        ("{\"n\":\"\",\"u\":1,\"u\":1}", WrongType, Some("n")),
        (too_deep.as_str(), TooDeep, Some("j")),
        (absurd.as_str(), TooDeep, Some("j")),
        ("{\"t\":1", InvalidJson, None),
        ("{\"t\" 1}", InvalidJson, None),
        ("{\"t\":1,}", InvalidJson, None),
        ("{\"t\":[1}}", InvalidJson, Some("t")),
        ("{\"t\":01}", InvalidJson, Some("t")),
        ("{\"t\":1.}", InvalidJson, Some("t")),
        ("{\"t\":NaN}", InvalidJson, Some("t")),
        ("{\"t\":tru}", InvalidJson, Some("t")),
        ("{t:1}", InvalidJson, None),
        ("{'t':1}", InvalidJson, None),
        ("{\"t\":\"\\ud800\"}", InvalidJson, Some("t")),
        ("{\"t\":\"\\x\"}", InvalidJson, Some("t")),
        ("{\"t\":\"\t\"}", InvalidJson, Some("t")),
        ("{\"t\":\"\0\"}", InvalidJson, Some("t")),
        ("{\"t\":1,\"x\":1e400,}", InvalidJson, None),
    ];
    for (record, code, field) in cases {
        // A record that does not close is a record only in NDJSON, and an empty one only in an
        // array.
        let good = "{\"t\":\"good\"}";
        let document = match record {
            "" => "[{\"t\":1},,{\"t\":1}]".to_owned(),
            "{\"t\":1" => format!("{good}\n{record}\n{good}\n"),
            _ => {
                let expected = Err((code, field.map(str::to_owned)));
                assert_eq!(outcome(&dataset, record), expected, "{record:.80}");
                continue;
            }
        };
        let all = outcomes(&dataset, document.as_bytes(), NO_LIMITS);
        assert_eq!(all[1], Err((code, None)), "{document}");
        assert!(
            all.len() == 3 && all[0].is_ok() && all[2].is_ok(),
            "{document}"
        );
    }
}

#[test]
fn broken_utf8_is_a_reject_and_its_neighbours_are_rows() {
    let mut document = b"[{\"t\":\"a\"},{\"t\":1,\"x\":\"?\"},{\"t\":\"b\"}]".to_vec();
    let at = document.iter().position(|byte| *byte == b'?').unwrap();
    document[at] = 0xff;
    let all = outcomes(&all_kinds(), &document, NO_LIMITS);
    assert_eq!(all[1], Err((RejectCode::InvalidJson, Some("x".to_owned()))));
    assert!(all[0].is_ok() && all[2].is_ok());
}

#[test]
fn a_broken_line_is_one_reject() {
    // The document has five values on four lines. Each broken line is one record.
    let document = b"{\"t\":1}\n{\"t\":2},{\"t\":3}\n[{\"t\":4}\n{\"t\":5}]\n";
    let all = outcomes(&all_kinds(), document, NO_LIMITS);
    assert_eq!(all.len(), 4);
    assert!(all[0].is_ok());
    for outcome in &all[1..] {
        assert_eq!(*outcome, Err((RejectCode::InvalidJson, None)));
    }
}

#[test]
fn unknown_fields_follow_the_definition() {
    let definition = |rule| {
        dataset(&format!(
            "name = 'x'\non_unknown_field = '{rule}'\ncolumns = [{{name = 't', type = 'text'}}]"
        ))
    };
    let record = "{\"t\":\"a\",\"u\":1}";
    let refused = Err((RejectCode::UnknownField, Some("u".to_owned())));
    assert_eq!(outcome(&definition("reject"), record), refused);
    let row = |rescued: Option<&str>| Ok(vec![Some("a".to_owned()), rescued.map(str::to_owned)]);
    assert_eq!(outcome(&definition("ignore"), record), row(None));
    assert_eq!(
        outcome(&definition("rescue"), record),
        row(Some("{\"u\":1}"))
    );
}

#[test]
fn huge_records_are_rejects_and_their_memory_is_freed() {
    let dataset = all_kinds();
    let document = |bytes: usize| {
        let filler = bytes - r#"{"t":1,"j":""}"#.len();
        format!(
            "[{{\"t\":1}},{{\"t\":1,\"j\":\"{}\"}},{{\"t\":1}}]",
            "x".repeat(filler)
        )
    };
    let largest = document(RECORD_BYTES_MAX);
    assert!(
        outcomes(&dataset, largest.as_bytes(), NO_LIMITS)
            .iter()
            .all(Result::is_ok)
    );
    let larger = document(RECORD_BYTES_MAX + 1);
    let all = outcomes(&dataset, larger.as_bytes(), NO_LIMITS);
    assert_eq!(all[1], Err((RejectCode::TooLarge, None)));
    assert!(all[0].is_ok() && all[2].is_ok());
    let mut parser = Parser::default();
    let bytes = &largest.as_bytes()[1..largest.len() - 1];
    let chunk = Chunk {
        start: 1,
        end: bytes.len() as u64 + 1,
        first_ordinal: 0,
        records: 3,
        layout: Layout::Array,
        around: None,
    };
    parser.parse(&dataset, FILE, &chunk, bytes, &Outside::default());
    assert!(parser.text.capacity() <= KEEP_BYTES_MAX);
}

#[test]
fn a_raw_record_is_kept_up_to_a_limit() {
    let record = format!("{{\"t\":[\"{}\"]}}", "x".repeat(RAW_BYTES_MAX));
    let document = format!("[{record}]");
    let chunk = Chunk {
        start: 1,
        end: record.len() as u64 + 1,
        first_ordinal: 3,
        records: 1,
        layout: Layout::Array,
        around: None,
    };
    let batch = Parser::default().parse(
        &all_kinds(),
        FILE,
        &chunk,
        record.as_bytes(),
        &Outside::default(),
    );
    assert_eq!(batch.rejects[0].raw.len(), RAW_BYTES_MAX);
    assert_eq!(
        (batch.rejects[0].ordinal, batch.rejects[0].byte_offset),
        (3, 1)
    );
    assert!(document.as_bytes()[1..].starts_with(&batch.rejects[0].raw));
}
