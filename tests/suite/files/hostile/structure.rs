//! Texts that are almost JSON, documents with an unusual structure, and documents that end too
//! early.

use super::{Case, GOOD, among_lines, between, case, with};

pub fn not_quite_json() -> Vec<Case> {
    let good = GOOD;
    vec![
        case(
            "a line comment",
            between(with("// x\n\"x\":1")),
            "row invalid_json row",
        ),
        case(
            "a block comment",
            between(with("/* x */\"x\":1")),
            "row invalid_json row",
        ),
        case(
            "a comment before all",
            format!("// x\n[{good}]"),
            "malformed",
        ),
        case(
            "a comma at the end of a record",
            between(with("")),
            "row invalid_json row",
        ),
        case(
            "a comma at the end of the records",
            format!("[{good},]"),
            "row invalid_json",
        ),
        case(
            "a comma before the records",
            format!("[,{good}]"),
            "invalid_json row",
        ),
        case(
            "two commas",
            format!("[{good},,{good}]"),
            "row invalid_json row",
        ),
        case("no comma", format!("[{good} {good}]"), "malformed"),
        case("a semicolon", format!("[{good};{good}]"), "malformed"),
        case(
            "single quotes",
            between("{'vehicle_id':'v'}"),
            "row invalid_json row",
        ),
        case(
            "keys without quotes",
            between("{vehicle_id:1}"),
            "row invalid_json row",
        ),
        case(
            "a key without a value",
            between(with("\"x\"")),
            "row invalid_json row",
        ),
        case(
            "a colon too many",
            between(with("\"x\"::1")),
            "row invalid_json row",
        ),
        case(
            "a number as a key",
            between(with("1:1")),
            "row invalid_json row",
        ),
        case(
            "a bracket for a brace",
            between("{\"a\":[1}}"),
            "row invalid_json row",
        ),
        case(
            "a bracket that is closed by a brace",
            between("[1}"),
            "row invalid_json row",
        ),
        case(
            "a key twice",
            between(with("\"status\":\"no\"")),
            "row duplicate_field row",
        ),
        case(
            "a key twice, once escaped",
            between(with(r#""stat\u0075s":"no""#)),
            "row duplicate_field row",
        ),
        case(
            "an unknown key twice",
            between(with("\"x\":1,\"x\":2")),
            "row duplicate_field row",
        ),
        case("an empty key", between(with("\"\":1")), "row*3"),
        case(
            "Windows line ends",
            format!("{good}\r\n\r\n{good}\r\n"),
            "row*2",
        ),
        case("line ends of old", format!("{good}\r{good}\r"), "row*2"),
        case("HTML", "<!DOCTYPE html><p>503</p>", "malformed"),
        case("CSV", "vehicle_id,status\nv,ok\n", "malformed"),
        case("a text alone", "\"v\"", "malformed"),
        case("a number alone", "42", "malformed"),
        case("null alone", "null", "malformed"),
    ]
}

pub fn shapes() -> Vec<Case> {
    let good = GOOD;
    let envelope = |value: &str| format!("{{\"vehicle_status\":{value}}}");
    let one = format!("[{good}]");
    vec![
        case("no records", "[]", ""),
        case("no records in an envelope", envelope("[ ]"), ""),
        case(
            "an array of arrays",
            format!("[[{good}],[{good}]]"),
            "not_an_object*2",
        ),
        case(
            "an array of everything else",
            "[1,\"a\",null,true,[],{}]",
            "not_an_object*5 missing_field",
        ),
        case("an envelope of null", envelope("null"), "malformed"),
        case("an envelope of one object", envelope(good), "malformed"),
        case("an envelope of a number", envelope("7"), "malformed"),
        case(
            "an envelope in itself",
            envelope(&envelope(&one)),
            "malformed",
        ),
        case(
            "an envelope in its array",
            envelope(&format!("[{}]", envelope(&one))),
            "missing_field",
        ),
        case(
            "an envelope of another name",
            format!("{{\n\"records\":\n{one}}}"),
            "malformed",
        ),
        case(
            "an envelope with more in it",
            format!("{{\"a\":[{{}}],\"vehicle_status\":{one},\"z\":[1]}}"),
            "row",
        ),
        case(
            "the records twice",
            format!("{{\"vehicle_status\":{one},\"vehicle_status\":{one}}}"),
            "malformed",
        ),
        case(
            "an escaped name of the records",
            format!("{{\"vehicle_\\u0073tatus\":{one}}}"),
            "row",
        ),
        case(
            "the name of the records in a text",
            format!("{{\"a\":\"\\\"vehicle_status\\\":[\",\"vehicle_status\":{one}}}"),
            "row",
        ),
        case("two documents", format!("{one}{one}"), "malformed"),
        case(
            "two envelopes",
            format!("{}{}", envelope(&one), envelope(&one)),
            "malformed",
        ),
        case("a bracket after the end", format!("{one}]"), "malformed"),
        case(
            "an envelope closed by a bracket",
            format!("{{\"vehicle_status\":{one}]"),
            "malformed",
        ),
        case(
            "two records in a line",
            format!("{good}\n{good}{good}\n{good}\n"),
            "row*4",
        ),
        case("all records in a line", good.repeat(1_000), "row*1000"),
        case(
            "records in a line, one of them broken",
            format!("{good}\n{good}{{\"vehicle_id\":{{{good}{good}\n{good}\n"),
            "malformed",
        ),
        case(
            "one record over many lines",
            format!("{{\n{}\n}}\n", good[1..good.len() - 1].replace(',', ",\n")),
            "row",
        ),
        case(
            "a bad first line",
            format!("{{\"vehicle_id\":1,,}}\n{good}\n"),
            "invalid_json row",
        ),
        case(
            "a scalar in the first line",
            format!("42\n{good}\n"),
            "not_an_object row",
        ),
        case(
            "a word in the first line",
            format!("tru\n{good}\n"),
            "invalid_json row",
        ),
        case(
            "a record with an array of the records' name",
            [
                with("\"vehicle_status\":[1,2]").as_slice(),
                format!("\n{good}\n").as_bytes(),
            ]
            .concat(),
            "row*2",
        ),
        case(
            "garbage in another member",
            format!("{{\"x\":tru,\"vehicle_status\":{one}}}"),
            "malformed",
        ),
        case(
            "garbage after the records",
            format!("{{\"vehicle_status\":{one} x}}"),
            "malformed",
        ),
        case(
            "a record over two lines",
            among_lines(good.replace(",\"status\"", ",\n\"status\"")),
            "row invalid_json*2 row",
        ),
        case(
            "an array in a line",
            among_lines(format!("[{good}]")),
            "row not_an_object row",
        ),
        case(
            "a broken first line",
            format!("{{\"vehicle_id\":\"v\n{good}\n"),
            "invalid_json row",
        ),
    ]
}

pub fn ends() -> Vec<Case> {
    let good = GOOD;
    vec![
        case("an empty file", "", ""),
        case("blanks only", " \r\n\t\n", ""),
        case("a byte order mark only", "\u{feff}", ""),
        case("one brace", "{", "incomplete"),
        case("one bracket", "[", "incomplete"),
        case("one quote", "\"", "malformed"),
        case("no end of the array", format!("[{good}"), "incomplete"),
        case(
            "no end of the envelope",
            format!("{{\"vehicle_status\":[{good}]"),
            "incomplete",
        ),
        case(
            "a text without an end",
            format!("[{good},{{\"vehicle_id\":\"v"),
            "incomplete",
        ),
        case(
            "a backslash at the end",
            format!("[{good},{{\"vehicle_id\":\"v\\"),
            "incomplete",
        ),
        case(
            "a last line without its end",
            format!("{good}\n{{\"vehicle_id\":"),
            "incomplete",
        ),
        case(
            "a last line without a line break",
            format!("{good}\n{good}"),
            "row*2",
        ),
    ]
}
