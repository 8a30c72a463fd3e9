//! Conversions between types: each column type with the values that it accepts and refuses.

use super::*;

/// The cell that a value becomes in a column `c`, and what is rescued of the record.
fn converted(column: &str, strict: bool, value: &str) -> Result<[Option<String>; 2], RejectCode> {
    let definition = format!(
        "name = 'x'\nstrict = {strict}\ncolumns = [{{ name = 't', type = 'text' }}, {{ name = 'c', \
         field = '/c', {column} }}]"
    );
    let record = format!("{{\"t\": \"a\", \"c\": {value}}}");
    match outcome(&dataset(&definition), &record) {
        Ok(cells) => Ok([cells[1].clone(), cells[2].clone()]),
        Err((code, field)) => {
            assert_eq!(field.as_deref(), Some("c"), "{column} {value}");
            Err(code)
        }
    }
}

#[test]
fn a_value_is_accepted_where_nothing_is_lost() {
    use RejectCode::*;
    const LENIENT: bool = false;
    const STRICT: bool = true;
    let cases = [
        ("type = 'integer'", "10", LENIENT, Ok("10")),
        ("type = 'integer'", "10.0", LENIENT, Ok("10")),
        ("type = 'integer'", "1e3", LENIENT, Ok("1000")),
        (
            "type = 'integer'",
            "\"-9007199254740993\"",
            LENIENT,
            Ok("-9007199254740993"),
        ),
        ("type = 'integer'", "\"1\\u0030\"", LENIENT, Ok("10")),
        ("type = 'integer'", "10.5", LENIENT, Err(WrongType)),
        ("type = 'integer'", "\" 10\"", LENIENT, Err(WrongType)),
        ("type = 'integer'", "\"010\"", LENIENT, Err(WrongType)),
        ("type = 'integer'", "\"\"", LENIENT, Err(WrongType)),
        ("type = 'integer'", "true", LENIENT, Err(WrongType)),
        (
            "type = 'integer'",
            "9223372036854775808",
            LENIENT,
            Err(NumberRange),
        ),
        ("type = 'integer'", "\"1e99\"", LENIENT, Err(NumberRange)),
        ("type = 'integer'", "10.0", STRICT, Err(WrongType)),
        ("type = 'integer'", "\"10\"", STRICT, Err(WrongType)),
        (
            "type = 'unsigned'",
            "18446744073709551615",
            STRICT,
            Ok("18446744073709551615"),
        ),
        (
            "type = 'unsigned'",
            "\"18446744073709551615\"",
            LENIENT,
            Ok("18446744073709551615"),
        ),
        (
            "type = 'unsigned'",
            "18446744073709551616",
            LENIENT,
            Err(NumberRange),
        ),
        ("type = 'unsigned'", "-1", LENIENT, Err(NumberRange)),
        ("type = 'unsigned'", "-0", LENIENT, Ok("0")),
        ("type = 'float'", "\"1.5e3\"", LENIENT, Ok("1500.0")),
        ("type = 'float'", "\"NaN\"", LENIENT, Err(WrongType)),
        ("type = 'float'", "\"1e400\"", LENIENT, Err(NumberRange)),
        ("type = 'float'", "\"1.5\"", STRICT, Err(WrongType)),
        ("type = 'boolean'", "1", LENIENT, Ok("true")),
        ("type = 'boolean'", "0", LENIENT, Ok("false")),
        ("type = 'boolean'", "\"True\"", LENIENT, Ok("true")),
        ("type = 'boolean'", "\"0\"", LENIENT, Ok("false")),
        ("type = 'boolean'", "2", LENIENT, Err(WrongType)),
        ("type = 'boolean'", "\"yes\"", LENIENT, Err(WrongType)),
        ("type = 'boolean'", "1", STRICT, Err(WrongType)),
        (
            "type = 'decimal(20,4)'",
            "1234567890123456.7890",
            STRICT,
            Ok("1234567890123456.7890"),
        ),
        ("type = 'decimal(20,4)'", "\"0.1\"", LENIENT, Ok("0.1000")),
        ("type = 'decimal(20,4)'", "-1e-4", LENIENT, Ok("-0.0001")),
        (
            "type = 'decimal(20,4)'",
            "0.00001",
            LENIENT,
            Err(NumberRange),
        ),
        ("type = 'decimal(4,2)'", "100", LENIENT, Err(NumberRange)),
        ("type = 'decimal(4,2)'", "\"1,5\"", LENIENT, Err(WrongType)),
        ("type = 'decimal(4,2)'", "\"1.5\"", STRICT, Err(WrongType)),
        ("type = 'date'", "\"2024-02-29\"", STRICT, Ok("2024-02-29")),
        (
            "type = 'date'",
            "\"2023-02-29\"",
            LENIENT,
            Err(InvalidTimestamp),
        ),
        (
            "type = 'date'",
            "\"2024-02-29T10:00:00Z\"",
            LENIENT,
            Err(InvalidTimestamp),
        ),
        ("type = 'date'", "19782", LENIENT, Err(WrongType)),
        (
            "type = 'date', epoch = 'days'",
            "19782",
            LENIENT,
            Ok("2024-02-29"),
        ),
        (
            "type = 'date', epoch = 'days'",
            "\"19782\"",
            LENIENT,
            Ok("2024-02-29"),
        ),
        (
            "type = 'date', epoch = 'days'",
            "19782.5",
            LENIENT,
            Err(InvalidTimestamp),
        ),
        (
            "type = 'date', formats = ['%d.%m.%Y']",
            "\"29.02.2024\"",
            LENIENT,
            Ok("2024-02-29"),
        ),
        (
            "type = 'time'",
            "\"13:14:15.1234567\"",
            LENIENT,
            Ok("13:14:15.123456"),
        ),
        (
            "type = 'time'",
            "\"24:00:00\"",
            LENIENT,
            Err(InvalidTimestamp),
        ),
        ("type = 'time'", "5", LENIENT, Err(WrongType)),
        (
            "type = 'time', formats = ['%I:%M %p']",
            "\"01:14 PM\"",
            LENIENT,
            Ok("13:14:00.000000"),
        ),
        ("type = 'binary'", "\"aGk=\"", LENIENT, Ok("6869")),
        ("type = 'binary'", "\"\"", LENIENT, Ok("")),
        ("type = 'binary'", "\"a\"", LENIENT, Err(InvalidBinary)),
        ("type = 'binary'", "7", LENIENT, Err(WrongType)),
        (
            "type = 'binary', encoding = 'hex'",
            "\"00FF\"",
            LENIENT,
            Ok("00ff"),
        ),
        (
            "type = 'binary', encoding = 'hex'",
            "\"0xff\"",
            LENIENT,
            Err(InvalidBinary),
        ),
        (
            "type = 'timestamp', epoch = 'ns'",
            "1000001999",
            LENIENT,
            Ok("1000001"),
        ),
        (
            "type = 'timestamp', epoch = 'ns'",
            "\"1772323200123456789\"",
            LENIENT,
            Ok("1772323200123456"),
        ),
        (
            "type = 'timestamp', epoch = 'days'",
            "1.5",
            LENIENT,
            Ok("129600000000"),
        ),
        (
            "type = 'timestamp', epoch = 's'",
            "\"1970-01-01T00:00:01Z\"",
            LENIENT,
            Ok("1000000"),
        ),
        (
            "type = 'timestamp', epoch = 's'",
            "\"1\"",
            STRICT,
            Err(InvalidTimestamp),
        ),
        (
            "type = 'timestamp'",
            "\"1\"",
            LENIENT,
            Err(InvalidTimestamp),
        ),
        (
            "type = 'timestamp', formats = ['%Y-%m-%d %H:%M:%S UTC', '%d/%m/%Y %H:%M:%S,%f']",
            "\"01/01/1970 00:00:01,5\"",
            LENIENT,
            Ok("1500000"),
        ),
        (
            "type = 'text', max_chars = 20000",
            "\"a\"",
            LENIENT,
            Ok("a"),
        ),
    ];
    for (column, value, strict, expected) in cases {
        let found = converted(column, strict, value).map(|[cell, _]| cell.unwrap());
        assert_eq!(
            found,
            expected.map(str::to_owned),
            "{column} {value} {strict}"
        );
    }
}

#[test]
fn a_value_that_its_column_does_not_accept_is_rescued_if_the_column_says_so() {
    let soft = "type = 'integer', required = false, on_error = 'null'";
    for value in ["\"NaN\"", "1.5", "{\"a\": [1]}", "\"a\\u0041\""] {
        let rescued = Some(format!("{{\"c\":{value}}}"));
        assert_eq!(
            converted(soft, false, value),
            Ok([None, rescued]),
            "{value}"
        );
    }
    for (value, cell) in [("null", None), ("5", Some("5".to_owned()))] {
        assert_eq!(converted(soft, false, value), Ok([cell, None]), "{value}");
    }
    // A column that takes a part: the whole member is rescued, whatever becomes of unknown fields.
    let part = dataset(
        "name = 'x'\non_unknown_field = 'ignore'\ncolumns = [\
         { name = 't', type = 'text' }, \
         { name = 'a', type = 'integer', field = '/c/a', required = false, on_error = 'null' }, \
         { name = 'b', type = 'integer', field = '/c/b', required = false, on_error = 'null' }]",
    );
    let cells = |record: &str| outcome(&part, record).unwrap()[1..].to_vec();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        cells(r#"{"t": "a", "c": {"a": "x", "b": 2, "d": 3}}"#),
        [None, text("2"), text(r#"{"c":{"a": "x", "b": 2, "d": 3}}"#)]
    );
    assert_eq!(
        cells(r#"{"t": "a", "c": {"a": "1", "d": 3}}"#),
        [text("1"), None, None]
    );
    // A member that a column takes as a whole is not rescued a second time.
    let whole = dataset(
        "name = 'x'\ncolumns = [{ name = 't', type = 'text' }, { name = 'c', type = 'json' }, \
         { name = 'a', type = 'integer', field = '/c/a', required = false, on_error = 'null' }]",
    );
    assert_eq!(
        outcome(&whole, r#"{"t": "a", "c": {"a": "x"}}"#).unwrap()[1..],
        [text(r#"{"a": "x"}"#), None, None]
    );
}

#[test]
fn a_missing_or_null_field_has_the_default() {
    let cases = [
        ("type = 'text'", "x", "x"),
        ("type = 'integer'", "-1", "-1"),
        ("type = 'unsigned'", "7", "7"),
        ("type = 'float'", "0.5", "0.5"),
        ("type = 'decimal(6,2)'", "1.5", "1.50"),
        ("type = 'boolean'", "false", "false"),
        ("type = 'timestamp'", "1970-01-01T00:00:01Z", "1000000"),
        ("type = 'date'", "2024-02-29", "2024-02-29"),
        ("type = 'time'", "00:00", "00:00:00.000000"),
        ("type = 'binary'", "aGk=", "6869"),
        ("type = 'json'", "[]", "[]"),
    ];
    for (column, default, expected) in cases {
        let definition = format!(
            "name = 'x'\ncolumns = [{{ name = 't', type = 'text' }}, {{ name = 'c', {column}, required \
             = false, default = '{default}' }}]"
        );
        let dataset = dataset(&definition);
        assert!(!dataset.schema().field(2).is_nullable());
        for record in [r#"{"t": "a"}"#, r#"{"t": "a", "c": null}"#] {
            let cells = outcome(&dataset, record).unwrap();
            assert_eq!(cells[1].as_deref(), Some(expected), "{column} {record}");
        }
    }
}
