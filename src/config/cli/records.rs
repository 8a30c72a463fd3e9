//! The arguments of the commands about single records: `trace`, `erase` and `verify`.

use std::path::PathBuf;

use super::values::record_id;

/// Arguments of `trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// The id of a row or reject, or its file and ordinal, such as 1:160
    #[arg(value_name = "ID", value_parser = record_id)]
    pub id: u64,
    /// Path of the file, if it is not in history, work or quarantine
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct VerifyArgs {
    /// Compare each row, column by column, with its record in the file
    #[arg(long)]
    pub content: bool,
    /// Only this file
    #[arg(long, value_name = "FILE_NO")]
    pub file: Option<u32>,
    /// Only files with a lower number: continues an earlier run
    #[arg(long, value_name = "FILE_NO", conflicts_with = "file")]
    pub before: Option<u32>,
    /// Print one JSON object per line: each wrong file, then the totals
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `erase`.
#[derive(Debug, Clone, clap::Args)]
pub struct EraseArgs {
    /// The id of a row or reject, or its file and ordinal, such as 1:160
    #[arg(value_name = "ID", value_parser = record_id, required = true)]
    pub ids: Vec<u64>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
}
