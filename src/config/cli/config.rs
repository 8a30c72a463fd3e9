//! The arguments of `config` and its subcommands.

use std::path::PathBuf;

use clap::Subcommand;

use super::help::DATASET;
use crate::config::file::FILE_DEFAULT;

/// Arguments of `config`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings in effect as a settings file, with passwords hidden
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write an initial settings file: every setting with its meaning and default, as comments
    Init(InitArgs),
    /// Print the JSON Schema of a settings file, for editors that complete and check it
    Schema,
    /// Propose the definition of a dataset for samples of its files
    #[command(before_help = DATASET)]
    Dataset(DatasetArgs),
}

/// Arguments of `config dataset`.
#[derive(Debug, Clone, clap::Args)]
pub struct DatasetArgs {
    /// Samples of the files of one dataset, compressed or not
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Name of the dataset (default: what the names of the files begin with)
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// JSON pointer to the array of records; "" if each object is a record (default: the largest)
    #[arg(long, value_name = "POINTER")]
    pub records: Option<String>,
    /// Most records to examine; 0 examines all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub sample: u64,
}

/// Arguments of `config init`.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// File to write; an existing file is not changed
    #[arg(value_name = "FILE", default_value = FILE_DEFAULT)]
    pub file: PathBuf,
}
