//! How history keeps its files.

use schemars::JsonSchema;
use serde::Deserialize;

/// The directories of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HistoryLayout {
    /// A file keeps its path below inbound.
    Flat,
    /// The same, below a directory for the UTC day of the move: `2026/02/28`.
    Day,
}

impl HistoryLayout {
    /// The value as it is written in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Day => "day",
        }
    }
}

/// The compression of files in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HistoryCompression {
    /// Files stay as they were delivered.
    None,
    /// Files that were delivered as text are compressed with zstd.
    Zstd,
}

impl HistoryCompression {
    /// The value as it is written in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}
