//! The arguments of `load`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;

/// Arguments of `load`.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct LoadArgs {
    /// Files and directories, with all files below; those outside of inbound are read in place;
    /// - is standard input
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Name of the file that standard input becomes
    #[arg(long = "as", value_name = "NAME")]
    pub as_name: Option<OsString>,
    /// Move files from outside of inbound to history, too
    #[arg(long = "move")]
    pub move_files: bool,
    /// Print what would be loaded, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Order of the files of the given paths; files of inbound are loaded oldest first
    #[arg(long, value_enum, default_value_t = FileOrder::Name)]
    pub order: FileOrder,
    /// Stop when more records than this are rejected
    #[arg(long, value_name = "N")]
    pub max_rejects: Option<u64>,
    /// Load every file as one of this dataset, whatever its name; arrays of other datasets load, too
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Drop the indexes of the tables, and build them after the load; not unique keys
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "auto",
        default_value_t = DeferIndexes::Never
    )]
    pub defer_indexes: DeferIndexes,
    /// Read files of an archive that are stored by their path, size and times, too
    #[arg(long)]
    pub rehash: bool,
    /// Name each file that was stored before
    #[arg(short, long)]
    pub verbose: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,
    /// Print the totals as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// When a load drops indexes and builds them after its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DeferIndexes {
    /// If the indexes do not fit into the database's buffer pool, and the rows to come are at least
    /// half of those in the table.
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    #[default]
    Never,
}

/// The order of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FileOrder {
    /// By name.
    #[default]
    Name,
    /// By time of last change, oldest first.
    Oldest,
    /// By time of last change, newest first.
    Newest,
}
