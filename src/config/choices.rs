//! Settings that have one of a few values.

use schemars::JsonSchema;
use serde::Deserialize;

/// What to do with a file in inbound that has a second hard link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HardLinks {
    /// Take it like any other file.
    Take,
    /// Let it wait until the other link is removed.
    Wait,
}

impl HardLinks {
    /// The value as it is written in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Wait => "wait",
        }
    }
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
    /// Text if stderr is a terminal, else JSON.
    Auto,
}

impl LogFormat {
    /// The value as it is written in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Auto => "auto",
        }
    }
}

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
