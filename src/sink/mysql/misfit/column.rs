//! Compares an existing column with the one that is needed. Finds the difference, and a type for
//! the column that changes no value.

use crate::sink::mysql::ddl::{CHAR_BYTES, VARCHAR_CHARS_MAX, sql_type, text};
use crate::sink::table::{Kind, TableColumn};

/// Most digits of a decimal of MySQL, and most of them after the point.
const DECIMAL_DIGITS_MAX: (u64, u64) = (65, 30);

/// A column as `information_schema` has it.
#[derive(Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a separate fact about the column"
)]
pub(in crate::sink::mysql) struct ExistingColumn {
    pub(in crate::sink::mysql) name: String,
    /// In lower case.
    pub(in crate::sink::mysql) data_type: String,
    pub(in crate::sink::mysql) unsigned: bool,
    /// The type as it was declared, without the character set.
    pub(in crate::sink::mysql) column_type: String,
    /// Most bytes of a text.
    pub(in crate::sink::mysql) text_bytes: u64,
    /// Most characters of a text.
    pub(in crate::sink::mysql) chars: u64,
    pub(in crate::sink::mysql) collation: String,
    /// Digits of a second's fraction.
    pub(in crate::sink::mysql) precision: u64,
    pub(in crate::sink::mysql) nullable: bool,
    /// Whether the column is part of an index.
    pub(in crate::sink::mysql) indexed: bool,
    /// Whether the value is an expression: an INSERT may not name the column.
    pub(in crate::sink::mysql) generated: bool,
    pub(in crate::sink::mysql) auto_increment: bool,
    /// Whether the server fills the column if an INSERT does not name it.
    pub(in crate::sink::mysql) optional: bool,
}

impl ExistingColumn {
    fn is_text(&self) -> bool {
        self.is_long_text() || matches!(self.data_type.as_str(), "varchar" | "tinytext")
    }

    fn is_long_text(&self) -> bool {
        matches!(self.data_type.as_str(), "text" | "mediumtext" | "longtext")
    }

    /// Whether the bytes of its values count for the size of a row.
    pub(super) fn is_varying(&self) -> bool {
        matches!(
            self.data_type.as_str(),
            "varchar" | "char" | "varbinary" | "binary"
        )
    }

    fn is_integer(&self) -> bool {
        matches!(
            self.data_type.as_str(),
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint"
        )
    }

    /// Whether the type has digits, as DOUBLE(10,2), to which the server rounds each value.
    fn rounds(&self) -> bool {
        self.data_type == "double" && self.column_type.contains('(')
    }

    /// The digits of a decimal before and after the point. `None` for another type.
    fn decimal_digits(&self) -> Option<(u64, u64)> {
        let digits = self.column_type.to_ascii_lowercase();
        let digits = digits.strip_prefix("decimal(")?;
        let (precision, scale) = digits.split_once(')')?.0.split_once(',')?;
        let (precision, scale): (u64, u64) = (precision.parse().ok()?, scale.parse().ok()?);
        (!self.unsigned).then(|| (precision - scale, scale))
    }

    fn is_blob(&self) -> bool {
        self.data_type.ends_with("blob") || self.data_type.ends_with("binary")
    }

    /// The character set: the beginning of the collation's name.
    fn charset(&self) -> &str {
        self.collation.split('_').next().unwrap_or_default()
    }

    /// The definition of the same column as nullable, so that an INSERT need not name it.
    pub(super) fn as_optional(&self) -> String {
        let collated = if self.collation.is_empty() {
            String::new()
        } else {
            let (charset, collation) = (self.charset(), &self.collation);
            format!(" CHARACTER SET {charset} COLLATE {collation}")
        };
        format!("`{}` {}{collated} NULL", self.name, self.column_type)
    }
}

/// A type that a column can have without a change of any value.
pub(super) struct Fitting {
    pub(super) sql_type: String,
    /// The condition of rows whose value would change, or that the server would refuse.
    pub(super) hazard: Option<String>,
    pub(super) in_utc: bool,
}

/// The type that makes a column fit. `None` if a value could change.
pub(super) fn fitting(
    needed: &TableColumn,
    found: &ExistingColumn,
    mariadb: bool,
) -> Option<Fitting> {
    let name = &found.name;
    let (mut hazard, mut in_utc) = (None, false);
    let wanted = sql_type(needed.kind, false, mariadb);
    let data_type = found.data_type.as_str();
    let sql_type = match needed.kind {
        Kind::RowId if found.is_integer() => {
            hazard = (!found.unsigned).then(|| format!("`{name}` < 0"));
            wanted
        }
        Kind::Integer if found.is_integer() => {
            let above = || format!("`{name}` > {}", i64::MAX);
            hazard = (found.unsigned && data_type == "bigint").then(above);
            wanted
        }
        Kind::Unsigned if found.is_integer() => {
            hazard = (!found.unsigned).then(|| format!("`{name}` < 0"));
            wanted
        }
        Kind::Decimal(precision, scale) => {
            // Wide enough for both, so that no value changes.
            let (whole, after) = found.decimal_digits()?;
            let after = after.max(scale.into());
            let digits = after + whole.max((precision - scale).into());
            if digits > DECIMAL_DIGITS_MAX.0 || after > DECIMAL_DIGITS_MAX.1 {
                return None;
            }
            format!("DECIMAL({digits},{after})")
        }
        Kind::Time if data_type == "time" => wanted,
        Kind::Binary
            if data_type == "tinyblob" || data_type == "blob" || data_type == "varbinary" =>
        {
            if found.indexed {
                return None;
            }
            wanted
        }
        Kind::Text(_) if found.is_long_text() && found.indexed => return None,
        Kind::Text(_) if found.is_long_text() => format!("LONGTEXT {}", text(mariadb)),
        Kind::Text(min) if found.is_text() || matches!(data_type, "char" | "enum" | "set") => {
            let chars = found.chars.max(min.into());
            if chars <= VARCHAR_CHARS_MAX.into() {
                format!("VARCHAR({chars}) {}", text(mariadb))
            } else if found.indexed {
                return None;
            } else {
                format!("LONGTEXT {}", text(mariadb))
            }
        }
        Kind::Text(_) if found.is_integer() => wanted,
        Kind::Json if found.indexed => return None,
        Kind::Json if found.is_text() || data_type == "char" => {
            format!("LONGTEXT {}", text(mariadb))
        }
        Kind::Timestamp if matches!(data_type, "datetime" | "timestamp" | "date") => {
            in_utc = data_type == "timestamp";
            // Zero dates, which a strict server refuses to copy.
            hazard = Some(format!(
                "YEAR(`{name}`) = 0 OR MONTH(`{name}`) = 0 OR DAYOFMONTH(`{name}`) = 0"
            ));
            wanted
        }
        Kind::Float if found.is_integer() && data_type != "bigint" => wanted,
        Kind::Float if data_type == "double" => wanted,
        Kind::Boolean if found.column_type.eq_ignore_ascii_case("bit(1)") => wanted,
        Kind::Boolean if found.is_integer() => found.column_type.clone(),
        _ => return None,
    };
    Some(Fitting {
        sql_type,
        hazard,
        in_utc,
    })
}

/// The problem of a column, for people. `None` if it fits.
pub(super) fn column_misfit(
    needed: &TableColumn,
    found: &ExistingColumn,
    must_be_exact: bool,
) -> Option<String> {
    let data_type = found.data_type.as_str();
    let text_type = found.is_text();
    let type_fits = match needed.kind {
        Kind::RowId | Kind::Unsigned => data_type == "bigint" && found.unsigned,
        Kind::Integer => data_type == "bigint" && !found.unsigned,
        Kind::Decimal(..) => found.decimal_digits().is_some(),
        Kind::Time => data_type == "time",
        Kind::Binary => found.is_blob(),
        Kind::Text(_) => text_type,
        Kind::Json => data_type == "json" || (text_type && found.text_bytes >= 65_535),
        Kind::Timestamp => data_type == "datetime",
        Kind::Day => data_type == "date",
        Kind::Float => data_type == "double",
        Kind::Boolean => found.is_integer(),
    };
    if !type_fits {
        let unsigned = if found.unsigned { " unsigned" } else { "" };
        return Some(format!("has the type {data_type}{unsigned}"));
    }
    match needed.kind {
        Kind::RowId if found.auto_increment => {
            return Some(
                "has AUTO_INCREMENT, so that rows of other programs would take the ids of records"
                    .to_owned(),
            );
        }
        Kind::Float if found.rounds() => {
            return Some(format!(
                "has the type {}, which rounds its values",
                found.column_type
            ));
        }
        Kind::Text(_) | Kind::Json if data_type != "json" && found.charset() != "utf8mb4" => {
            return Some(format!("has the character set {}", found.charset()));
        }
        Kind::Text(chars) if found.text_bytes < u64::from(chars) * u64::from(CHAR_BYTES) => {
            return Some(format!("is too short for {chars} characters"));
        }
        Kind::Text(_) if must_be_exact && !is_exact(&found.collation) => {
            return Some(format!(
                "is compared by the collation {}, by which different keys are equal",
                found.collation
            ));
        }
        Kind::Decimal(precision, scale)
            if found.decimal_digits().is_none_or(|(whole, after)| {
                whole < u64::from(precision - scale) || after < scale.into()
            }) =>
        {
            return Some(format!("is too short for decimal({precision},{scale})"));
        }
        Kind::Binary if !matches!(data_type, "mediumblob" | "longblob") => {
            return Some("is too short for the bytes of a record".to_owned());
        }
        Kind::Timestamp | Kind::Time if found.precision < 6 => {
            return Some("has no microseconds".to_owned());
        }
        _ => {}
    }
    (needed.nullable && !found.nullable).then(|| "takes no NULL".to_owned())
}

/// Whether a collation compares byte by byte with the spaces at the end.
fn is_exact(collation: &str) -> bool {
    matches!(collation, "utf8mb4_nopad_bin" | "utf8mb4_0900_bin")
}
