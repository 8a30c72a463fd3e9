//! The columns of a batch while its records are parsed: Arrow builders behind one call for each
//! row.
//!
//! Knows types and nothing of JSON. Each row is appended whole or not at all, so all columns always
//! have the same length.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder,
    StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;

use super::value::{Kept, Value};
use crate::dataset::{ColumnType, Dataset};

/// Bytes of text for which a text column allocates at first, for each row. It grows by
/// reallocation.
const TEXT_BYTES_GUESS: usize = 48;

/// The columns of a batch, `id` first and `_rescued` last.
pub(super) struct Columns {
    ids: UInt64Builder,
    typed: Vec<Column>,
    rescued: StringBuilder,
}

enum Column {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Integer(Int64Builder),
    Unsigned(UInt64Builder),
    Float(Float64Builder),
    Decimal(Decimal128Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
}

impl Columns {
    /// Empty columns with capacity for `rows` rows from `bytes` bytes of JSON.
    pub(super) fn new(dataset: &Dataset, rows: usize, bytes: usize) -> Self {
        let text_bytes = (rows * TEXT_BYTES_GUESS).min(bytes);
        let columns = dataset.columns.iter().map(|column| match column.kind {
            ColumnType::Text | ColumnType::Json => {
                Column::Text(StringBuilder::with_capacity(rows, text_bytes))
            }
            ColumnType::Binary => Column::Bytes(BinaryBuilder::with_capacity(rows, text_bytes)),
            ColumnType::Integer => Column::Integer(Int64Builder::with_capacity(rows)),
            ColumnType::Unsigned => Column::Unsigned(UInt64Builder::with_capacity(rows)),
            ColumnType::Decimal { .. } => {
                let builder = Decimal128Builder::with_capacity(rows);
                Column::Decimal(builder.with_data_type(column.kind.data_type()))
            }
            ColumnType::Date => Column::Date(Date32Builder::with_capacity(rows)),
            ColumnType::Time => Column::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            ColumnType::Float => Column::Float(Float64Builder::with_capacity(rows)),
            ColumnType::Boolean => Column::Boolean(BooleanBuilder::with_capacity(rows)),
            ColumnType::Timestamp => {
                let builder = TimestampMicrosecondBuilder::with_capacity(rows);
                Column::Timestamp(builder.with_timezone("UTC"))
            }
        });
        Self {
            ids: UInt64Builder::with_capacity(rows),
            typed: columns.collect(),
            rescued: StringBuilder::with_capacity(rows, 0),
        }
    }

    /// Appends a row: a value for each column of the dataset. `kept` holds what the values refer to.
    #[inline]
    pub(super) fn push(
        &mut self,
        id: u64,
        values: &[Value<'_>],
        kept: &Kept,
        rescued: Option<&str>,
    ) {
        assert_eq!(values.len(), self.typed.len());
        self.ids.append_value(id);
        for (column, value) in self.typed.iter_mut().zip(values) {
            // Most values are texts. The processor predicts a separate branch for them, but not the
            // jump table of a match over all types.
            if let (Column::Text(column), Value::Text(text)) = (&mut *column, value) {
                column.append_value(text);
            } else {
                column.push(*value, kept);
            }
        }
        self.rescued.append_option(rescued);
    }

    pub(super) fn finish(mut self, schema: &SchemaRef) -> RecordBatch {
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(self.ids.finish())];
        arrays.extend(self.typed.into_iter().map(Column::finish));
        arrays.push(Arc::new(self.rescued.finish()));
        RecordBatch::try_new(Arc::clone(schema), arrays)
            .expect("builders and schema are made from the same columns")
    }
}

impl Column {
    #[inline]
    fn push(&mut self, value: Value<'_>, kept: &Kept) {
        match (self, value) {
            (Self::Text(column), Value::Unescaped(at)) => column.append_value(&kept.texts[at]),
            (Self::Text(column), Value::Text(text)) => column.append_value(text),
            (Self::Timestamp(column), Value::Timestamp(micros)) => column.append_value(micros),
            (Self::Integer(column), Value::Integer(number)) => column.append_value(number),
            (Self::Float(column), Value::Float(number)) => column.append_value(number),
            (Self::Boolean(column), Value::Boolean(truth)) => column.append_value(truth),
            (Self::Text(column), Value::Absent) => column.append_null(),
            (Self::Timestamp(column), Value::Absent) => column.append_null(),
            (Self::Integer(column), Value::Absent) => column.append_null(),
            (Self::Float(column), Value::Absent) => column.append_null(),
            (Self::Boolean(column), Value::Absent) => column.append_null(),
            (Self::Bytes(column), Value::Bytes(at)) => column.append_value(&kept.bytes[at]),
            (Self::Unsigned(column), Value::Unsigned(number)) => column.append_value(number),
            (Self::Decimal(column), Value::Decimal(high, low)) => {
                let bits = u128::from(high) << 64 | u128::from(low);
                column.append_value(bits.cast_signed());
            }
            (Self::Date(column), Value::Date(days)) => column.append_value(days),
            (Self::Time(column), Value::Time(micros)) => column.append_value(micros),
            (Self::Bytes(column), Value::Absent) => column.append_null(),
            (Self::Unsigned(column), Value::Absent) => column.append_null(),
            (Self::Decimal(column), Value::Absent) => column.append_null(),
            (Self::Date(column), Value::Absent) => column.append_null(),
            (Self::Time(column), Value::Absent) => column.append_null(),
            (_, value) => panic!("{value:?} was made for a column of another type"),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut column) => Arc::new(column.finish()),
            Self::Integer(mut column) => Arc::new(column.finish()),
            Self::Float(mut column) => Arc::new(column.finish()),
            Self::Boolean(mut column) => Arc::new(column.finish()),
            Self::Timestamp(mut column) => Arc::new(column.finish()),
            Self::Bytes(mut column) => Arc::new(column.finish()),
            Self::Unsigned(mut column) => Arc::new(column.finish()),
            Self::Decimal(mut column) => Arc::new(column.finish()),
            Self::Date(mut column) => Arc::new(column.finish()),
            Self::Time(mut column) => Arc::new(column.finish()),
        }
    }
}
