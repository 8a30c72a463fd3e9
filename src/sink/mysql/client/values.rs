//! The values of many rows, written as they go over the wire.
//!
//! Pure. Each value is written once, in its place in the packet: nothing is kept beside it.

use mysql_common::constants::{
    ColumnType, Command, MariadbBulkIndicator, StmtBulkExecuteFlags, StmtExecuteParamFlags,
};

use crate::timestamp::Civil;

/// Marks before each value of a bulk execution.
const VALUE_FOLLOWS: u8 = MariadbBulkIndicator::BULK_INDICATOR_NONE as u8;
const NULL_FOLLOWS: u8 = MariadbBulkIndicator::BULK_INDICATOR_NULL as u8;

/// The type of a column's values, as the protocol numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink::mysql) struct Type([u8; 2]);

impl Type {
    pub(in crate::sink::mysql) const UNSIGNED: Self = Self([
        ColumnType::MYSQL_TYPE_LONGLONG as u8,
        StmtExecuteParamFlags::UNSIGNED.bits(),
    ]);
    pub(in crate::sink::mysql) const INTEGER: Self =
        Self([ColumnType::MYSQL_TYPE_LONGLONG as u8, 0]);
    pub(in crate::sink::mysql) const FLOAT: Self = Self([ColumnType::MYSQL_TYPE_DOUBLE as u8, 0]);
    /// Text or bytes, by the column.
    pub(in crate::sink::mysql) const BYTES: Self =
        Self([ColumnType::MYSQL_TYPE_VAR_STRING as u8, 0]);
    pub(in crate::sink::mysql) const DATETIME: Self =
        Self([ColumnType::MYSQL_TYPE_DATETIME as u8, 0]);
}

/// Takes the values of rows, one after the other, each of its column's [`Type`].
#[derive(Debug)]
pub(in crate::sink::mysql) struct Values<'a> {
    out: &'a mut Vec<u8>,
    form: Form,
}

/// Where NULL is noted.
#[derive(Debug)]
enum Form {
    /// Before each value.
    InBulk,
    /// In a map of bits at `map`, of which `next` is that of the next value.
    Placed { map: usize, next: usize },
}

impl<'a> Values<'a> {
    /// A statement with placeholders for one row, executed for each row that is written.
    pub(in crate::sink::mysql) fn in_bulk(
        out: &'a mut Vec<u8>,
        statement: u32,
        types: &[Type],
    ) -> Self {
        out.push(Command::COM_STMT_BULK_EXECUTE as u8);
        out.extend_from_slice(&statement.to_le_bytes());
        let flags = StmtBulkExecuteFlags::SEND_TYPES_TO_SERVER;
        out.extend_from_slice(&flags.bits().to_le_bytes());
        out.extend(types.iter().flat_map(|of| of.0));
        Self {
            out,
            form: Form::InBulk,
        }
    }

    /// A statement with placeholders for each of `rows` rows.
    pub(super) fn placed(
        out: &'a mut Vec<u8>,
        statement: u32,
        types: &[Type],
        rows: usize,
    ) -> Self {
        const NO_CURSOR: u8 = 0;
        const ONCE: u32 = 1;
        const TYPES_FOLLOW: u8 = 1;
        out.push(Command::COM_STMT_EXECUTE as u8);
        out.extend_from_slice(&statement.to_le_bytes());
        out.push(NO_CURSOR);
        out.extend_from_slice(&ONCE.to_le_bytes());
        let map = out.len();
        out.resize(map + (types.len() * rows).div_ceil(8), 0);
        out.push(TYPES_FOLLOW);
        for _ in 0..rows {
            out.extend(types.iter().flat_map(|of| of.0));
        }
        Self {
            out,
            form: Form::Placed { map, next: 0 },
        }
    }

    pub(in crate::sink::mysql) fn null(&mut self) {
        match &mut self.form {
            Form::InBulk => self.out.push(NULL_FOLLOWS),
            Form::Placed { map, next } => {
                self.out[*map + *next / 8] |= 1 << (*next % 8);
                *next += 1;
            }
        }
    }

    /// A value of so many bytes, with its mark in one piece.
    fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        match &mut self.form {
            Form::InBulk => {
                let mut marked = [VALUE_FOLLOWS; 16];
                marked[1..=N].copy_from_slice(&bytes);
                self.out.extend_from_slice(&marked[..=N]);
            }
            Form::Placed { next, .. } => {
                *next += 1;
                self.out.extend_from_slice(&bytes);
            }
        }
    }

    pub(in crate::sink::mysql) fn unsigned(&mut self, number: u64) {
        self.fixed(number.to_le_bytes());
    }

    pub(in crate::sink::mysql) fn integer(&mut self, number: i64) {
        self.fixed(number.to_le_bytes());
    }

    pub(in crate::sink::mysql) fn float(&mut self, number: f64) {
        self.fixed(number.to_le_bytes());
    }

    /// Text, or bytes.
    pub(in crate::sink::mysql) fn bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len().to_le_bytes();
        match bytes.len() {
            0..=250 => self.fixed([length[0]]),
            251..=0xFFFF => self.fixed([0xFC, length[0], length[1]]),
            0x1_0000..=0xFF_FFFF => self.fixed([0xFD, length[0], length[1], length[2]]),
            _ => {
                let mut marked = [0xFE; 9];
                marked[1..].copy_from_slice(&length);
                self.fixed(marked);
            }
        }
        self.out.extend_from_slice(bytes);
    }

    /// In the shortest of three lengths that has all that is not zero.
    pub(in crate::sink::mysql) fn datetime(&mut self, at: &Civil) {
        let (year, micros) = (at.year.to_le_bytes(), at.micros.to_le_bytes());
        let (month, day) = (at.month, at.day);
        let (hour, minute, second) = (at.hour, at.minute, at.second);
        match (at.micros, (hour, minute, second)) {
            (0, (0, 0, 0)) => self.fixed([4, year[0], year[1], month, day]),
            (0, _) => self.fixed([7, year[0], year[1], month, day, hour, minute, second]),
            _ => self.fixed([
                11, year[0], year[1], month, day, hour, minute, second, micros[0], micros[1],
                micros[2], micros[3],
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use mysql_common::Value;
    use mysql_common::packets::{ComStmtBulkExecuteRequestBuilder, ComStmtExecuteRequestBuilder};
    use mysql_common::proto::MySerialize;
    use proptest::prelude::*;

    use super::*;

    const TYPES: [Type; 5] = [
        Type::UNSIGNED,
        Type::INTEGER,
        Type::FLOAT,
        Type::BYTES,
        Type::DATETIME,
    ];

    /// A row in which the last two may be NULL.
    fn row() -> impl Strategy<Value = Vec<Value>> {
        let text = prop_oneof![
            8 => proptest::collection::vec(any::<u8>(), 0..300),
            1 => Just(vec![b'x'; 0xFFFF]),
            1 => Just(vec![b'x'; 0x1_0000]),
        ];
        let micros = prop_oneof![Just(0), 1..1_000_000_u32];
        let (clock, zero) = ((0..24_u8, 0..60_u8, 0..60_u8), Just((0, 0, 0)));
        let time = (
            0..10_000_u16,
            1..13_u8,
            1..29_u8,
            prop_oneof![clock, zero],
            micros,
        )
            .prop_map(|(y, m, d, (h, i, s), micros)| Value::Date(y, m, d, h, i, s, micros));
        let text = proptest::option::of(text.prop_map(Value::Bytes));
        (
            any::<u64>(),
            any::<i64>(),
            any::<f64>(),
            text,
            proptest::option::of(time),
        )
            .prop_map(|(unsigned, integer, float, text, time)| {
                vec![
                    Value::UInt(unsigned),
                    Value::Int(integer),
                    Value::Double(float),
                    text.unwrap_or(Value::NULL),
                    time.unwrap_or(Value::NULL),
                ]
            })
    }

    fn write(values: &mut Values<'_>, row: &[Value]) {
        for value in row {
            match value {
                Value::UInt(number) => values.unsigned(*number),
                Value::Int(number) => values.integer(*number),
                Value::Double(number) => values.float(*number),
                Value::Bytes(bytes) => values.bytes(bytes),
                Value::Date(year, month, day, hour, minute, second, micros) => {
                    values.datetime(&Civil {
                        year: *year,
                        month: *month,
                        day: *day,
                        hour: *hour,
                        minute: *minute,
                        second: *second,
                        micros: *micros,
                    });
                }
                _ => values.null(),
            }
        }
    }

    proptest! {
        /// Another implementation writes the same bytes.
        #[test]
        fn rows_are_written_as_the_protocol_has_them(
            rows in proptest::collection::vec(row(), 1..20),
        ) {
            let mut ours = Vec::new();
            let mut values = Values::placed(&mut ours, 7, &TYPES, rows.len());
            for row in &rows {
                write(&mut values, row);
            }
            let flat = rows.concat();
            let (request, _) = ComStmtExecuteRequestBuilder::new(7).build(&flat);
            let mut theirs = Vec::new();
            request.serialize(&mut theirs);
            // It takes the types from the values, and NULL has one of its own.
            let map = 10..10 + flat.len().div_ceil(8);
            let types = map.end + 1..map.end + 1 + 2 * flat.len();
            for (at, value) in flat.iter().enumerate() {
                if *value == Value::NULL {
                    let at = types.start + 2 * at;
                    theirs[at..at + 2].copy_from_slice(&ours[at..at + 2]);
                }
            }
            prop_assert!(ours == theirs);

            let mut ours = Vec::new();
            let mut values = Values::in_bulk(&mut ours, 7, &TYPES);
            for row in &rows {
                write(&mut values, row);
            }
            let mut builder = ComStmtBulkExecuteRequestBuilder::new(7, 1 << 30);
            for row in &rows {
                prop_assert!(builder.add_row(row.clone()).unwrap().is_none());
            }
            let mut theirs = Vec::new();
            builder.build().unwrap().serialize(&mut theirs);
            for (at, _) in TYPES.iter().enumerate().skip(3) {
                if rows.iter().all(|row| row[at] == Value::NULL) {
                    let at = 7 + 2 * at;
                    theirs[at..at + 2].copy_from_slice(&ours[at..at + 2]);
                }
            }
            prop_assert!(ours == theirs);
        }
    }
}
