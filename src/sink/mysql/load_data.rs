//! Rows by LOAD DATA LOCAL: the fastest way to store rows in MySQL.
//!
//! Even in strict mode, it skips duplicate keys and changes bad values until they fit, and only
//! warns. So the rows count as stored only if the server stored as many as were sent and gave no
//! warning. The "file" is text that this module writes in memory.

use arrow_schema::{DataType, Field};

use crate::dataset::Dataset;
use crate::sink::cells::{Cell, Rare, Rows};
use crate::{convert, dates, timestamp};

use super::errors::Failure;
use super::session::Session;

/// Bytes that the buffer allocates at first for each row.
const ROW_BYTES_USUAL: usize = 256;

/// Sends rows. Returns whether the server stored every row as it was sent. If not, the caller must
/// roll back the transaction.
pub(super) async fn rows(session: &mut Session, rows: &Rows<'_>) -> Result<bool, Failure> {
    let sql = statement(rows.dataset);
    let mut text = Vec::with_capacity(rows.len() * ROW_BYTES_USUAL);
    for row in rows.range(0..rows.len()) {
        for (at, cell) in row.cells().enumerate() {
            if at > 0 {
                text.push(b'\t');
            }
            write(cell, &mut text);
        }
        text.push(b'\n');
    }
    let (stored, warnings) = session.load_data(&sql, text).await?;
    Ok(stored == rows.len() as u64 && warnings == 0)
}

/// The statement. The text of a `binary` column is hexadecimal, since the bytes themselves may not
/// be text.
fn statement(dataset: &Dataset) -> String {
    let schema = dataset.schema();
    let is_binary = |field: &Field| field.data_type() == &DataType::Binary;
    let target = |field: &Field| {
        let (name, sigil) = (field.name(), if is_binary(field) { "@" } else { "" });
        format!("{sigil}`{name}`")
    };
    let targets: Vec<String> = schema.fields().iter().map(|field| target(field)).collect();
    let bytes = schema.fields().iter().filter(|field| is_binary(field));
    let sets: Vec<String> = bytes
        .map(|field| format!("`{0}` = UNHEX(@`{0}`)", field.name()))
        .collect();
    let set = if sets.is_empty() { "" } else { " SET " };
    format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE `{}` CHARACTER SET utf8mb4 FIELDS TERMINATED BY \
         '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}{}",
        dataset.table,
        targets.join(", "),
        sets.join(", "),
    )
}

fn write(cell: Cell<'_>, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let written = match cell {
        Cell::Null => out.write_all(b"\\N"),
        Cell::Text(text) => {
            escape(text.as_bytes(), out);
            Ok(())
        }
        Cell::Timestamp(time_us) => {
            timestamp::write(time_us, out);
            Ok(())
        }
        Cell::Id(number) | Cell::Rare(Rare::Unsigned(number)) => write!(out, "{number}"),
        Cell::Integer(number) => write!(out, "{number}"),
        // The shortest text that reads back as the same number.
        Cell::Float(number) => write!(out, "{number:e}"),
        Cell::Boolean(value) => write!(out, "{}", u8::from(value)),
        Cell::Rare(Rare::Decimal(decimal)) => out.write_all(decimal.text().as_bytes()),
        Cell::Rare(Rare::Date(days)) => out.write_all(dates::date_text(days).as_bytes()),
        Cell::Rare(Rare::Time(micros)) => out.write_all(dates::time_text(micros).as_bytes()),
        Cell::Rare(Rare::Bytes(bytes)) => out.write_all(convert::hex_text(bytes).as_bytes()),
    };
    written.expect("writing to memory does not fail");
}

/// Escapes the bytes that are special in the file: tab and newline, which end a field or a row, the
/// backslash, and NUL, as the manual of LOAD DATA demands.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\\' | 0);
    // Most texts have no special byte. A scan of all bytes without a branch is faster than one that
    // stops at the first.
    if !text.iter().fold(false, |any, byte| any | special(byte)) {
        out.extend_from_slice(text);
        return;
    }
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            0 => b'0',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a field as the server does, by the manual of LOAD DATA.
    fn unescape(field: &[u8]) -> Vec<u8> {
        let mut bytes = field.iter();
        let mut out = Vec::new();
        while let Some(&byte) = bytes.next() {
            out.push(match byte {
                b'\\' => match bytes.next().expect("a backslash is never last") {
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'0' => 0,
                    other => *other,
                },
                other => other,
            });
        }
        out
    }

    proptest! {
        #[test]
        fn an_escaped_field_reads_back(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'\t'), Just(b'\n'), Just(0), Just(b'N')],
            0..40,
        )) {
            let mut field = Vec::new();
            escape(&bytes, &mut field);
            prop_assert!(!field.contains(&b'\t') && !field.contains(&b'\n') && !field.contains(&0));
            prop_assert!(field != b"\\N", "that would be NULL");
            prop_assert_eq!(unescape(&field), bytes);
        }
    }
}
