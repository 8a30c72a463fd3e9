//! The arguments of `rejects` and its subcommands.

use std::path::PathBuf;

use clap::Subcommand;

use super::help::CORRECTIONS;
use super::values::{FieldValue, field_value, moment, record_id, reject_code};

/// Arguments of `rejects`.
#[derive(Debug, Clone, clap::Args)]
pub struct RejectsArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: RejectsCommand,
}

/// Selects rejects.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RejectFilter {
    /// Only rejects with this reason
    #[arg(long, value_name = "CODE", value_parser = reject_code())]
    pub code: Option<String>,
    /// Only rejects whose reason is this field
    #[arg(long, value_name = "FIELD")]
    pub field: Option<String>,
    /// Only rejects of this file
    #[arg(long, value_name = "FILE_NO")]
    pub file: Option<u32>,
}

/// The subcommands of `rejects`.
#[derive(Debug, Clone, Subcommand)]
pub enum RejectsCommand {
    /// List rejects, newest first
    List {
        /// The filter.
        #[command(flatten)]
        filter: RejectFilter,
        /// Most rejects to list
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show one reject with its text
    Show {
        /// The id of the record, or its file and ordinal, such as 1:160
        #[arg(value_name = "ID", value_parser = record_id)]
        id: u64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write rejects with their text, one JSON object per line
    Export {
        /// The filter.
        #[command(flatten)]
        filter: RejectFilter,
        /// File to write; without it, stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Replace rejects by rows made of corrected records, with the same ids
    #[command(after_help = CORRECTIONS)]
    Replay(ReplayArgs),
    /// Remove rejects for good; the audit still counts them
    Purge {
        /// Only rejects of this file
        #[arg(long, value_name = "FILE_NO")]
        file: Option<u32>,
        /// Only rejects from before this day or time (UTC)
        #[arg(long, value_name = "DATE", value_parser = moment)]
        before: Option<i64>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `rejects replay`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// The corrected records; - for stdin
    #[arg(value_name = "FILE", conflicts_with_all = ["ids", "code", "field", "file", "all"])]
    pub path: Option<PathBuf>,
    /// Replay this reject, without a file: the id of the record, or its file and ordinal. May be
    /// given more than once
    #[arg(long = "id", value_name = "ID", value_parser = record_id, conflicts_with_all = ["code", "field", "file", "all"])]
    pub ids: Vec<u64>,
    /// Which rejects to replay, without a file.
    #[command(flatten)]
    pub filter: RejectFilter,
    /// Replay every reject, without a file
    #[arg(long, conflicts_with_all = ["code", "field", "file"])]
    pub all: bool,
    /// Set a field of each record first. FIELD is a column or a field of the record, or a JSON
    /// pointer such as /data/0/speed; VALUE is JSON, or else a string. May be given more than once
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field_value)]
    pub set: Vec<FieldValue>,
    /// Remove a field of each record first, after --set. FIELD is as for --set. May be given more than
    /// once
    #[arg(long, value_name = "FIELD", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub unset: Vec<String>,
}
