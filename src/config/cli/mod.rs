//! The command line: commands, their arguments, and the help.

use std::io;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::options::{Options, Period};
use super::variables::VARIABLES;
use crate::sample::{FileFormat, RecordType};
use crate::version;

mod config;
mod help;
mod load;
mod records;
mod rejects;
mod retain;
mod values;

pub use config::{ConfigArgs, ConfigCommand, DatasetArgs, InitArgs};
use help::{AFTER, EXAMPLES};
pub use load::{DeferIndexes, FileOrder, LoadArgs};
pub use records::{EraseArgs, TraceArgs, VerifyArgs};
pub use rejects::{RejectFilter, RejectsArgs, RejectsCommand, ReplayArgs};
pub use retain::RetainArgs;
pub use values::{Colour, FieldValue};
use values::{a_second_at_least, ratio};

// Help is plain text: backticks would be printed.
/// Loads files of JSON records into MySQL or SQLite: every record becomes one row, or one reject
/// with a reason.
#[derive(Debug, Parser)]
#[command(name = "task_runner", version = version::long(), before_help = EXAMPLES, after_help = AFTER)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// The command; `run` if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Print only errors and results: no progress, no log below error
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// When messages have colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_short_help = true, help = COLOUR)]
    pub color: Colour,

    /// Settings, which may come before or after the command.
    #[command(flatten)]
    pub options: Options,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A text of its own: in a comment, the name of the variable would need backticks.
const COLOUR: &str = "Colours in messages; auto: on a terminal, unless NO_COLOR is set";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: load files as they arrive, refresh the summary, serve HTTP
    #[command(before_help = help::RUN)]
    Run,
    /// Load files, then exit; without PATH, the files in inbound
    #[command(before_help = help::LOAD)]
    Load(LoadArgs),
    /// Parse files and print their rejects; change nothing
    #[command(before_help = help::CHECK)]
    Check(CheckArgs),
    /// Check settings, directories, queue and database; print a fix for each problem
    Doctor(DoctorArgs),
    /// Show what the service does, and which files wait and why
    #[command(before_help = help::STATUS)]
    Status(StatusArgs),
    /// Ask the running service whether it is ready: exit code 0 if so, else 1
    Health(HealthArgs),
    /// List the files of the ledger, or retry those in quarantine
    #[command(before_help = help::FILES)]
    Files(FilesArgs),
    /// List, correct or remove rejected records
    #[command(before_help = help::REJECTS)]
    Rejects(RejectsArgs),
    /// Find the file, the position and the original JSON of a row or reject
    #[command(before_help = help::TRACE)]
    Trace(TraceArgs),
    /// Erase records for good: rows, rejects, and their bytes in history; the audit still counts them
    #[command(before_help = help::ERASE)]
    Erase(EraseArgs),
    /// Audit stored files against the tables: records = rows + rejects
    #[command(before_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Bring the daily summary up to date
    #[command(before_help = help::SUMMARY)]
    Summary(SummaryArgs),
    /// Make partitions ahead, and remove those whose rows are no longer kept
    #[command(before_help = help::RETAIN)]
    Retain(RetainArgs),
    /// Create the tables, or bring them up to date
    #[command(before_help = help::MIGRATE)]
    Migrate(MigrateArgs),
    /// Take no new files until resume; the files in work are still loaded
    Pause,
    /// End the pause: take files out of inbound again
    Resume,
    /// List the frames in the queue, or commit them all
    Queue(QueueArgs),
    /// Write sample files; the same seed writes the same files
    #[command(before_help = help::GENERATE)]
    Generate(GenerateArgs),
    /// Make a complete first run with sample data
    #[command(before_help = help::DEMO)]
    Demo(DemoArgs),
    /// Print the settings, or write a settings file
    #[command(before_help = help::CONFIG)]
    Config(ConfigArgs),
    /// Print the completion script of a shell
    #[command(before_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Write the manual pages of all commands to a directory
    #[command(before_help = help::MANUAL)]
    Manual(ManualArgs),
}

/// Arguments of `check`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CheckArgs {
    /// Files and directories, with all files below
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Check every file as one of this dataset, whatever its name
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Print the first rows of each dataset as they would be stored
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rows: usize,
    /// Print one JSON object per line: each reject, then the totals
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Print the JSON of /api/status; with --watch, one object per line
    #[arg(long)]
    pub json: bool,
    /// Repeat until q or Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Acknowledge the quarantined files and rejects of now: "next" then names new ones only
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub acknowledge: bool,
    /// Interval of --watch
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch")]
    pub interval: Period,
}

/// Arguments of `health`.
#[derive(Debug, Clone, clap::Args)]
pub struct HealthArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `files`.
#[derive(Debug, Clone, clap::Args)]
pub struct FilesArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: FilesCommand,
}

/// The subcommands of `files`.
#[derive(Debug, Clone, Subcommand)]
pub enum FilesCommand {
    /// List files, newest first
    List {
        /// Only files in this state
        #[arg(long, value_enum)]
        state: Option<StateFilter>,
        /// Most files to list
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show one file, and how many of its records are stored
    Show {
        /// The number of the file
        file_no: u32,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Move files from quarantine back to inbound, to be loaded again
    #[command(
        override_usage = "task_runner files retry NAME...\n       task_runner files retry --all"
    )]
    Retry {
        /// Names of files in quarantine
        #[arg(value_name = "NAME", required_unless_present = "all")]
        names: Vec<std::ffi::OsString>,
        /// Every file in quarantine
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Load files that are held because they are beyond a limit of their dataset
    Release {
        /// The numbers of the files
        #[arg(value_name = "FILE_NO", required = true)]
        file_nos: Vec<u32>,
    },
    /// Store missing rows and rejects again, with their ids, from the files in history
    #[command(
        override_usage = "task_runner files restore FILE_NO...\n       task_runner files restore --all"
    )]
    Restore {
        /// The numbers of the files
        #[arg(value_name = "FILE_NO", required_unless_present = "all")]
        file_nos: Vec<u32>,
        /// Every file of the ledger
        #[arg(long, conflicts_with = "file_nos")]
        all: bool,
    },
    /// Accept the problems that verify finds in files, as they are now
    Acknowledge {
        /// The numbers of the files
        #[arg(value_name = "FILE_NO", required = true)]
        file_nos: Vec<u32>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Remove the rows, the rejects and the ledger entry of files
    Forget {
        /// The numbers of the files
        #[arg(value_name = "FILE_NO", required = true)]
        file_nos: Vec<u32>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Remove the rows and rejects of files, and load the files again with the current definition
    Reload {
        /// The numbers of the files
        #[arg(value_name = "FILE_NO", required = true)]
        file_nos: Vec<u32>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// The state of a file in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateFilter {
    /// Some of its records are not stored yet.
    Pending,
    /// All of its records are stored.
    Settled,
    /// In quarantine, with a reason.
    Quarantined,
    /// Its rows and rejects are being removed.
    Removing,
}

/// Arguments of `summary`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SummaryArgs {
    /// Empty the summary and rebuild it from the rows of all files in the ledger
    #[arg(long)]
    pub rebuild: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `migrate`.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct MigrateArgs {
    /// Print the SQL and do nothing
    #[arg(long)]
    pub print: bool,

    /// Add the columns and indexes that the definitions have and existing tables lack
    #[arg(long, conflicts_with = "print")]
    pub add: bool,

    /// Keep rows of files that are not in the ledger; new files get higher numbers
    #[arg(long, conflicts_with = "print")]
    pub keep_rows: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `queue`.
#[derive(Debug, Clone, clap::Args)]
pub struct QueueArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: QueueCommand,
}

/// The subcommands of `queue`.
#[derive(Debug, Clone, Subcommand)]
pub enum QueueCommand {
    /// List the oldest frames of each stream, and which worker has each; changes nothing
    #[command(before_help = help::PEEK)]
    Peek {
        /// Most frames to list of each stream
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Commit all frames in the queue, then exit
    #[command(before_help = help::DRAIN)]
    Drain {
        /// Take over the frames of a worker that gave no sign of life for this long, at least 1s (default: 5s)
        #[arg(long, value_name = "TIME", value_parser = a_second_at_least)]
        take_over_after: Option<Period>,
    },
}

/// Arguments of `completions`.
#[derive(Debug, Clone, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `manual`.
#[derive(Debug, Clone, clap::Args)]
pub struct ManualArgs {
    /// Directory to write to; it must exist
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Arguments of `generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArgs {
    /// Directory to write to (default: inbound)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Dataset of the records
    #[arg(long, value_enum, default_value_t = RecordType::VehicleEvents)]
    pub dataset: RecordType,
    /// Number of files
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub files: u32,
    /// Number of records in each file
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub records: u32,
    /// Number of distinct vehicles in the records
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub vehicles: u32,
    /// Number of days that the records cover, one day per file
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Seed; the same seed writes the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Format of the files
    #[arg(long, value_enum, default_value_t = FileFormat::Document)]
    pub format: FileFormat,
    /// Compression of the files
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compress: Compression,
    /// Share of the records that will be rejected, from 0 to 1
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
    /// No compression.
    None,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Number of files
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub files: u32,
    /// Number of records in each file
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub records: u32,
    /// Directory to use; without it, a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the temporary directory and print its path
    #[arg(long)]
    pub keep: bool,
}

impl Cli {
    /// Reads a command line, program name first.
    ///
    /// # Errors
    /// A usage error, or the help or version to print instead.
    pub fn from_command_line(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let mut matches = Self::described().try_get_matches_from(arguments)?;
        Self::from_arg_matches_mut(&mut matches)
    }

    /// The commands and their arguments, as the help shows them: each setting with its variables.
    #[must_use]
    pub fn described() -> clap::Command {
        with_variables(Self::command())
    }

    /// The completion script of a shell.
    #[must_use]
    pub fn completions(shell: Shell) -> String {
        let mut script = Vec::new();
        let mut command = Self::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command, name, &mut script);
        String::from_utf8(script).expect("the script is made of the help, which is UTF-8")
    }

    /// Writes the manual pages of the program and of each command to an existing directory, as
    /// `task_runner.1`, `task_runner-load.1` and so on.
    ///
    /// # Errors
    /// A page cannot be written.
    pub fn write_manual(directory: &Path) -> io::Result<()> {
        let command = for_manual(Self::described());
        clap_mangen::generate_to(command, directory)
    }
}

/// The command as its manual pages have it: examples after the options, and help for each option.
fn for_manual(command: clap::Command) -> clap::Command {
    let texts = [command.get_before_help(), command.get_after_help()];
    let texts: Vec<String> = texts
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    let command = if texts.is_empty() {
        command
    } else {
        command.after_help(texts.join("\n\n"))
    };
    // clap_mangen 0.3.3 leaves out the help of an option that the short help hides.
    command
        .mut_args(|arg| arg.hide_short_help(false))
        .mut_subcommands(for_manual)
}

/// Adds the environment variables of each option to its help. clap's own `env` is not used, because
/// the environment is passed in, with the old names and `.env` merged.
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
    fn options_may_come_before_or_after_the_command() {
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
                // Cuts off the explanation and a redirection of the shell.
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
    fn a_ratio_is_from_0_to_1() {
        assert!(parse("task_runner generate --bad 1.5").is_err());
        assert!(parse("task_runner generate --bad 0.25").is_ok());
    }

    /// The usage names both forms, and no form that the command refuses.
    #[test]
    fn names_and_all_are_two_forms_of_a_command() {
        for command in ["files retry", "files restore"] {
            for wrong in ["", " --all 1"] {
                let error = parse(&format!("task_runner {command}{wrong}")).unwrap_err();
                let said = error.to_string();
                assert!(
                    said.contains(&format!("task_runner {command} --all\n")),
                    "{said}"
                );
                assert!(!said.contains(&format!("{command} --all [")), "{said}");
            }
        }
    }

    #[test]
    fn arguments_of_operators_are_checked() {
        assert!(parse("task_runner rejects list --code wrong_type").is_ok());
        assert!(parse("task_runner rejects list --code other").is_err());
        assert!(parse("task_runner files retry").is_err());
        assert!(parse("task_runner files retry --all a").is_err());
    }
}
