//! The command line: commands, their arguments, and the help.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::FILE_DEFAULT;
use super::environment::VARIABLES;
use super::options::{Options, Period};
use crate::sample::{FileFormat, RecordType};

mod help;
mod values;

use help::{AFTER, CORRECTIONS, EXAMPLES};
use values::{a_second_at_least, moment, ratio, record_id, reject_code};

// Help is plain text: backticks would be printed.
/// Loads files of JSON records into MySQL or SQLite: every record becomes one row, or one reject
/// with a reason.
#[derive(Debug, Parser)]
#[command(name = "task_runner", version, before_help = EXAMPLES, after_help = AFTER)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do; without a command, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Settings, before or after the command.
    #[command(flatten)]
    pub options: Options,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The service: take in what arrives, commit it, keep the summary fresh, serve HTTP
    #[command(before_help = help::RUN)]
    Run,
    /// Load files, then exit; without a path, those in inbound
    #[command(before_help = help::LOAD)]
    Load(LoadArgs),
    /// Parse and validate files: print the rejects, write nothing
    #[command(before_help = help::CHECK)]
    Check(CheckArgs),
    /// Looks at settings and surroundings: OK, WARN or FAIL, each with its fix
    Doctor,
    /// What moves, what waits and why
    #[command(before_help = help::STATUS)]
    Status(StatusArgs),
    /// Ask the running service whether it is ready: exit code 0 if so, else 1
    Health,
    /// The files of the ledger
    #[command(before_help = help::FILES)]
    Files(FilesArgs),
    /// The records that are no rows: list them, mend them, remove them
    #[command(before_help = help::REJECTS)]
    Rejects(RejectsArgs),
    /// A row or reject back to its file, its place in it, and its original JSON
    #[command(before_help = help::TRACE)]
    Trace(TraceArgs),
    /// Audit files against tables: records = rows + rejects
    #[command(before_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Bring the daily summary up to date
    #[command(before_help = help::SUMMARY)]
    Summary(SummaryArgs),
    /// Create the tables, or bring them up to date
    #[command(before_help = help::MIGRATE)]
    Migrate(MigrateArgs),
    /// Take no files out of inbound, until resume; what is in work is finished
    Pause,
    /// Take files again
    Resume,
    /// What is in the queue: look at it, or empty it into the database
    Queue(QueueArgs),
    /// Write sample files, the same ones for the same seed
    #[command(before_help = help::GENERATE)]
    Generate(GenerateArgs),
    /// A complete first run with made data
    #[command(before_help = help::DEMO)]
    Demo(DemoArgs),
    /// The settings
    #[command(before_help = help::CONFIG)]
    Config(ConfigArgs),
    /// Print what makes a shell complete this command line
    #[command(before_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
}

/// Arguments of `load`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LoadArgs {
    /// Files and directories (with all below them); outside of inbound they are read where they lie
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Move files outside of inbound to history, as those of inbound are
    #[arg(long = "move")]
    pub move_files: bool,
    /// Say what would be loaded, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Which of the paths' files come first; those of inbound come oldest first
    #[arg(long, value_enum, default_value_t = FileOrder::Name)]
    pub order: FileOrder,
    /// Stop when more records than this are rejected
    #[arg(long, value_name = "N")]
    pub max_rejects: Option<u64>,
    /// Take every file for one of this dataset, whatever its name
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// No progress, neither bar nor lines
    #[arg(long)]
    pub no_progress: bool,
}

/// Which files come first.
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

/// Arguments of `check`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CheckArgs {
    /// Files and directories (with all below them)
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Take every file for one of this dataset, whatever its name
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// The same JSON as /api/status; with --watch, one object a line
    #[arg(long)]
    pub json: bool,
    /// Again and again, until q or Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch")]
    pub interval: Period,
}

/// Arguments of `files`.
#[derive(Debug, Clone, clap::Args)]
pub struct FilesArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: FilesCommand,
}

/// What to do with the files of the ledger.
#[derive(Debug, Clone, Subcommand)]
pub enum FilesCommand {
    /// The files, newest first
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<StateFilter>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// All about one file, and what is stored of it
    Show {
        /// Its number
        file_no: u32,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Move files of quarantine back to inbound, to be loaded again
    Retry {
        /// Their names in quarantine
        #[arg(value_name = "NAME", required_unless_present = "all")]
        names: Vec<std::ffi::OsString>,
        /// Every file in quarantine
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// The state of a file in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateFilter {
    /// Some of its records are still to be stored.
    Pending,
    /// All of it is stored.
    Settled,
    /// Set aside, with a reason.
    Quarantined,
}

/// Arguments of `rejects`.
#[derive(Debug, Clone, clap::Args)]
pub struct RejectsArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: RejectsCommand,
}

/// Which rejects.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RejectFilter {
    /// Only those with this reason
    #[arg(long, value_name = "CODE", value_parser = reject_code())]
    pub code: Option<String>,
    /// Only those of this file
    #[arg(long, value_name = "FILE_NO")]
    pub file: Option<u32>,
}

/// What to do with rejects.
#[derive(Debug, Clone, Subcommand)]
pub enum RejectsCommand {
    /// The rejects, newest first
    List {
        /// Which
        #[command(flatten)]
        filter: RejectFilter,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// All about one reject, and its text
    Show {
        /// Its id, or file number and ordinal with a colon between
        #[arg(value_name = "ID", value_parser = record_id)]
        id: u64,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// All rejects, one JSON object a line, with their text
    Export {
        /// Which
        #[command(flatten)]
        filter: RejectFilter,
        /// Where to; without it, to stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put corrected records in the place of their rejects, each under its own id
    #[command(after_help = CORRECTIONS)]
    Replay {
        /// The corrected records; - for stdin
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove rejects for good; the audit keeps their places
    Purge {
        /// Only those of this file
        #[arg(long, value_name = "FILE_NO")]
        file: Option<u32>,
        /// Only those from before this day or moment (UTC)
        #[arg(long, value_name = "DATE", value_parser = moment)]
        before: Option<i64>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// The id of a row, or file number and ordinal with a colon between
    #[arg(value_name = "ID", value_parser = record_id)]
    pub id: u64,
    /// The file, where it lies neither in history nor in work nor in quarantine
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
}

/// Arguments of `verify`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct VerifyArgs {
    /// One JSON object a line: the files that are wrong, then the sums
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `summary`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SummaryArgs {
    /// Empty it first and make it again from the rows of all files in the ledger
    #[arg(long)]
    pub rebuild: bool,
}

/// Arguments of `migrate`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MigrateArgs {
    /// Print the SQL and do nothing
    #[arg(long)]
    pub print: bool,
}

/// Arguments of `queue`.
#[derive(Debug, Clone, clap::Args)]
pub struct QueueArgs {
    /// What to do with it
    #[command(subcommand)]
    pub command: QueueCommand,
}

/// What to do with the queue.
#[derive(Debug, Clone, Subcommand)]
pub enum QueueCommand {
    /// The oldest frames of each stream, and whose hands they are in; changes nothing
    #[command(before_help = help::PEEK)]
    Peek {
        /// How many of each stream
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Commit what is in the queue, whoever holds it; ends when it is empty
    #[command(before_help = help::DRAIN)]
    Drain {
        /// Take over what another consumer has held for this long, at least a second (default: 60s)
        #[arg(long, value_name = "TIME", value_parser = a_second_at_least)]
        take_over_after: Option<Period>,
    },
}

/// Arguments of `completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArgs {
    /// Where to (default: inbound)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Which kind of record
    #[arg(long, value_enum, default_value_t = RecordType::VehicleEvents)]
    pub dataset: RecordType,
    /// How many files
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub files: u32,
    /// How many records in each file
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub records: u32,
    /// How many vehicles they are of
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub vehicles: u32,
    /// Over how many days they are spread, one day a file
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// The same seed makes the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Shape of the files
    #[arg(long, value_enum, default_value_t = FileFormat::Document)]
    pub format: FileFormat,
    /// Compression of the files
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compress: Compression,
    /// Which part of the records is to be rejected, from 0 to 1
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    pub bad: f64,
}

/// The compression of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// None.
    None,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many files
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub files: u32,
    /// How many records in each file
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub records: u32,
    /// Where to; without it a temporary directory, removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the temporary directory and say where it is
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `config`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with the settings.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print the settings as they are in effect, as a settings file, with passwords hidden
    Show,
    /// Write a settings file to begin with: every setting, its meaning and its default, as comments
    Init(InitArgs),
    /// Print the JSON Schema of a settings file, for editors that complete and check it
    Schema,
}

/// Arguments of `config init`.
#[derive(Debug, Clone, clap::Args)]
pub struct InitArgs {
    /// Where to; a file that is there stays as it is
    #[arg(value_name = "FILE", default_value = FILE_DEFAULT)]
    pub file: PathBuf,
}

impl Cli {
    /// Reads a command line, program name first.
    ///
    /// # Errors
    /// What is to be printed instead: a usage error, help, or the version.
    pub fn from_command_line(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let command = with_variables(Self::command());
        let mut matches = command.try_get_matches_from(arguments)?;
        Self::from_arg_matches_mut(&mut matches)
    }

    /// The script that makes a shell complete command lines.
    #[must_use]
    pub fn completions(shell: Shell) -> String {
        let mut script = Vec::new();
        let mut command = Self::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command, name, &mut script);
        String::from_utf8(script).expect("it is made of the help, which is text")
    }
}

/// Adds the environment variables of each option to its help. They are not clap's own `env`
/// because the environment is handed in, with the old names and `.env` merged.
fn with_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let variables = VARIABLES
            .iter()
            .find(|(flag, _)| Some(*flag) == arg.get_long());
        match (variables, arg.get_help().map(ToString::to_string)) {
            (Some((_, names)), Some(help)) => arg.help(format!("{help} [{}]", names.join(", "))),
            _ => arg,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_command_line(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            "task_runner --workers 3 load a b",
            "task_runner load a --workers 3 b",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.options.workers.unwrap().get(), 3);
            let Some(Command::Load(args)) = cli.command else {
                panic!("{line}")
            };
            assert_eq!(args.paths, [PathBuf::from("a"), PathBuf::from("b")]);
        }
        assert!(parse("task_runner").unwrap().command.is_none());
    }

    #[test]
    fn help_begins_with_examples_and_names_variables() {
        let help = parse("task_runner --help").unwrap_err().to_string();
        assert!(help.starts_with("Examples:"), "{help}");
        assert!(help.contains("[LEMONADE_INBOUND, SRC_PATH]"), "{help}");
        assert!(help.contains("75  stopped before the end"), "{help}");
    }

    #[test]
    fn every_example_is_a_command_line() {
        fn lines(command: &clap::Command, found: &mut Vec<String>) {
            let help = command.get_before_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                // What it does stands behind; what a shell does with it is none of ours.
                let line = line.trim().split("   ").next().unwrap_or_default();
                let line = line.split(" > ").next().unwrap_or_default();
                if line.starts_with("task_runner") {
                    found.push(line.to_owned());
                }
            }
            for command in command.get_subcommands() {
                lines(command, found);
            }
        }
        let mut found = Vec::new();
        lines(&Cli::command(), &mut found);
        assert!(found.len() > 30, "{found:?}");
        for line in found {
            if let Err(error) = parse(&line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn a_ratio_is_a_ratio() {
        assert!(parse("task_runner generate --bad 1.5").is_err());
        assert!(parse("task_runner generate --bad 0.25").is_ok());
    }

    #[test]
    fn arguments_of_operators_are_checked() {
        assert!(parse("task_runner rejects list --code wrong_type").is_ok());
        assert!(parse("task_runner rejects list --code other").is_err());
        assert!(parse("task_runner files retry").is_err());
        assert!(parse("task_runner files retry --all a").is_err());
    }
}
