//! Depth and size, characters, numbers.

use super::{Case, GOOD, among_lines, between, case, status, with};

fn nested(levels: usize) -> String {
    format!("\"x\":{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn string(bytes: usize) -> String {
    format!("\"{}\"", "a".repeat(bytes))
}

pub fn nesting_and_size() -> Vec<Case> {
    let mib = 1024 * 1024;
    vec![
        case("31 levels in a record", between(with(nested(31))), "row*3"),
        case(
            "33 levels in all",
            between(with(nested(32))),
            "row too_deep row",
        ),
        case(
            "1,000 levels",
            between(with(nested(1_000))),
            "row too_deep row",
        ),
        case(
            "1,000,000 levels",
            between(with(nested(1_000_000))),
            "row too_deep row",
        ),
        case(
            "1,000,000 levels in a line",
            among_lines(with(nested(1_000_000))),
            "row too_deep row",
        ),
        case(
            "1,000,000 levels and no end",
            format!("[{}", "[".repeat(1_000_000)),
            "incomplete",
        ),
        case(
            "1,000,000 objects and no end",
            r#"{"a":"#.repeat(1_000_000),
            "incomplete",
        ),
        case(
            "1,000,000 closing brackets",
            format!("[{GOOD}{}", "]".repeat(1_000_000)),
            "malformed",
        ),
        case("the longest text", between(status(string(255))), "row*3"),
        case(
            "one character more",
            between(status(string(256))),
            "row text_too_long row",
        ),
        case(
            "255 characters of four bytes",
            between(status(format!("\"{}\"", "🚗".repeat(255)))),
            "row*3",
        ),
        case(
            "a text of 1 MiB",
            between(status(string(mib))),
            "row text_too_long row",
        ),
        case(
            "an unknown text of 1 MiB",
            between(with(format!("\"x\":{}", string(mib)))),
            "row*3",
        ),
        case(
            "a key of 1 MiB",
            between(with(format!("{}:1", string(mib)))),
            "row*3",
        ),
        case(
            "a text of 17 MiB",
            between(status(string(17 * mib))),
            "row too_large row",
        ),
        case(
            "a text of 17 MiB in a line",
            among_lines(status(string(17 * mib))),
            "row too_large row",
        ),
        case(
            "blanks of 17 MiB",
            between(format!("{GOOD}{}", " ".repeat(17 * mib))),
            "row*3",
        ),
        case(
            "100,000 empty objects",
            format!("[{}{{}}]", "{},".repeat(99_999)),
            "missing_field*100000",
        ),
        case(
            "100,000 empty lines",
            format!("{GOOD}{}{GOOD}\n", "\n".repeat(100_000)),
            "row*2",
        ),
        case(
            "100,000 commas",
            format!("[{}]", ",".repeat(99_999)),
            "invalid_json*100000",
        ),
        case(
            "10,000 members of one record",
            between(with(
                (0..10_000)
                    .map(|at| format!("\"k{at}\":{at}"))
                    .collect::<Vec<_>>()
                    .join(","),
            )),
            "row*3",
        ),
        case(
            "100,000 backslashes",
            between(status(format!("\"{}\"", "\\".repeat(100_000)))),
            "row text_too_long row",
        ),
        case(
            "an odd number of backslashes",
            between(status(format!("\"{}\"", "\\".repeat(101)))),
            "incomplete",
        ),
    ]
}

pub fn text() -> Vec<Case> {
    let utf16 = |document: &str| -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(document.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect()
    };
    vec![
        case(
            "broken UTF-8 in a value",
            between(status(b"\"\xff\xfe\"")),
            "row invalid_json row",
        ),
        case(
            "broken UTF-8 in a key",
            between(with(b"\"\xc3\x28\":1")),
            "row invalid_json row",
        ),
        case(
            "broken UTF-8 between members",
            between(with(b"\xff\"x\":1")),
            "row invalid_json row",
        ),
        case(
            "broken UTF-8 instead of a record",
            between(b"\x80"),
            "row invalid_json row",
        ),
        case(
            "broken UTF-8 in a line",
            among_lines(status(b"\"\xff\"")),
            "row invalid_json row",
        ),
        case(
            "UTF-8 cut within a character",
            between(status(b"\"\xf0\x9f\x9a\"")),
            "row invalid_json row",
        ),
        case(
            "an overlong NUL",
            between(status(b"\"\xc0\x80\"")),
            "row invalid_json row",
        ),
        case(
            "a surrogate in UTF-8",
            between(status(b"\"\xed\xa0\x80\"")),
            "row invalid_json row",
        ),
        case(
            "beyond Unicode",
            between(status(b"\"\xf4\x90\x80\x80\"")),
            "row invalid_json row",
        ),
        case(
            "a lone high surrogate",
            between(status(r#""\ud83d""#)),
            "row invalid_json row",
        ),
        case(
            "a lone low surrogate",
            between(status(r#""\ude97""#)),
            "row invalid_json row",
        ),
        case(
            "two high surrogates",
            between(status(r#""\ud83d\ud83d""#)),
            "row invalid_json row",
        ),
        case(
            "a pair of surrogates",
            between(status(r#""\ud83d\ude97""#)),
            "row*3",
        ),
        case("an escaped NUL", between(status(r#""a\u0000b""#)), "row*3"),
        case(
            "a raw NUL in a text",
            between(status(b"\"a\0b\"")),
            "row invalid_json row",
        ),
        case(
            "a raw NUL between records",
            between(b"\0"),
            "row invalid_json row",
        ),
        case("a file of NULs", vec![0; 4096], "malformed"),
        case(
            "a record and then NULs",
            [between("1"), vec![0; 512]].concat(),
            "malformed",
        ),
        case(
            "lines and then NULs",
            [among_lines("1"), vec![0; 512]].concat(),
            "row not_an_object row invalid_json",
        ),
        case(
            "a raw line break in a text",
            between(status("\"a\nb\"")),
            "row invalid_json row",
        ),
        case(
            "a raw tab in a text",
            between(status("\"a\tb\"")),
            "row invalid_json row",
        ),
        case(
            "a delete character",
            between(status("\"a\u{7f}b\"")),
            "row*3",
        ),
        case("a byte order mark", format!("\u{feff}[{GOOD}]"), "row"),
        case(
            "two byte order marks",
            format!("\u{feff}\u{feff}[{GOOD}]"),
            "malformed",
        ),
        case(
            "a byte order mark in the middle",
            between(format!("\u{feff}{GOOD}")),
            "malformed",
        ),
        case(
            "a byte order mark in a line",
            among_lines(format!("\u{feff}{GOOD}")),
            "row invalid_json row",
        ),
        case(
            "a byte order mark in a text",
            between(status("\"\u{feff}ok\"")),
            "row*3",
        ),
        case("UTF-16", utf16(&format!("[{GOOD}]")), "malformed"),
        case(
            "a no-break space between members",
            between(with("\u{a0}\"x\":1")),
            "row invalid_json row",
        ),
        case(
            "a line separator in a text",
            between(status("\"a\u{2028}b\"")),
            "row*3",
        ),
        case(
            "an unknown escape",
            between(status(r#""\x41""#)),
            "row invalid_json row",
        ),
        case(
            "half an escape",
            between(status(r#""\u12""#)),
            "row invalid_json row",
        ),
        case(
            "an escaped key",
            between(GOOD.replace("\"status\"", r#""stat\u0075s""#)),
            "row*3",
        ),
    ]
}

pub fn numbers() -> Vec<Case> {
    let number = |text: &str| between(status(text));
    vec![
        case("a number as text", number("12"), "row*3"),
        case("minus nothing", number("-0"), "row*3"),
        case("minus nothing, with a point", number("-0.0"), "row*3"),
        case(
            "the largest of 64 bits",
            number("18446744073709551615"),
            "row*3",
        ),
        case("one more", number("18446744073709551616"), "row*3"),
        case(
            "the least of 64 bits",
            number("-9223372036854775808"),
            "row*3",
        ),
        case("one less", number("-9223372036854775809"), "row*3"),
        case("1e400", number("1e400"), "row*3"),
        case(
            "1e400 in a field that is not read",
            between(with("\"x\":1e400")),
            "row*3",
        ),
        case("1e-400", number("1e-400"), "row*3"),
        case(
            "300 digits",
            number(&"9".repeat(300)),
            "row text_too_long row",
        ),
        case("a leading zero", number("01"), "row invalid_json row"),
        case("a plus sign", number("+1"), "row invalid_json row"),
        case(
            "no digit before the point",
            number(".5"),
            "row invalid_json row",
        ),
        case(
            "no digit after the point",
            number("5."),
            "row invalid_json row",
        ),
        case("no exponent", number("1e"), "row invalid_json row"),
        case("hexadecimal", number("0x10"), "row invalid_json row"),
        case("only a sign", number("-"), "row invalid_json row"),
        case("not a number", number("NaN"), "row invalid_json row"),
        case("infinity", number("-Infinity"), "row invalid_json row"),
        case("a capital literal", number("True"), "row invalid_json row"),
        case("half a literal", number("tru"), "row invalid_json row"),
        case(
            "a literal and more",
            number("nulll"),
            "row invalid_json row",
        ),
    ]
}
