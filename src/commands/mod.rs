//! The commands: each one turns settings and arguments into calls of the engine and prints the
//! result. Data goes to stdout, messages go to stderr, and the exit code reports the outcome.
//!
//! Nothing outlives the `execute` function of a command. Commands do not call each other, except
//! that `demo` loads its files as `load` does.

use anyhow::Context as _;

use crate::config::Settings;
use crate::config::cli::{Cli, Command, CompletionsArgs, ConfigArgs, ConfigCommand, ManualArgs};
use crate::content::Keeping;
use crate::fault::Fault;

mod audit;
mod audited;
mod http_client;
mod check;
mod config;
mod console;
mod database;
mod demo;
mod doctor;
mod ending;
mod erase;
mod exit;
mod files;
mod generate;
mod health;
mod load;
mod migrate;
mod never_met;
mod orphans;
mod others;
mod output;
mod parsed;
mod pause;
mod progress;
mod propose;
mod queue;
mod reject_reader;
mod rejects;
mod reload;
mod repair;
mod replay;
mod retain;
mod run;
mod served;
mod status;
mod status_watch;
mod stdin;
mod summary;
mod systemd;
mod trace;
mod uncovered;
mod verify;

use database::{ledger_file, open_database, open_for_operators, open_for_repairs, wanted_file};
pub use exit::{Exit, NoInput, Outcome, UsageError};
use output::{
    INFALLIBLE, KeyValueText, STOPPED_BEFORE, is_confirmed, note, print, unless_reader_gone,
};
pub use systemd::report_end;

/// Runs the command of the command line; `run` if it names none.
///
/// # Errors
/// The error of the command. [`Exit::of`] returns its exit code.
pub async fn dispatch(command: Option<Command>, settings: Settings) -> anyhow::Result<Outcome> {
    let database = crate::config::redacted(&settings.database_url);
    let queue = crate::config::redacted(&settings.broker_url);
    Box::pin(execute(command, settings))
        .await
        .map_err(|error| name_server(error, &database, &queue))
}

/// Adds to a transient fault which server did not answer and what to do about it.
fn name_server(error: anyhow::Error, database: &str, queue: &str) -> anyhow::Error {
    use crate::fault::Origin;

    let fault = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Fault>());
    let next_step = match fault {
        Some(fault) if fault.is_transient() => match fault.origin {
            Origin::Sink if database.starts_with("sqlite:") => format!(
                "{database} is in use, or its disk is full: run this again when that is over"
            ),
            Origin::Sink => not_now(database, "DATABASE_URL"),
            Origin::Broker => not_now(queue, "REDIS_URL"),
            Origin::Files => return error,
        },
        _ => return error,
    };
    error.context(next_step)
}

fn not_now(server: &str, setting: &str) -> String {
    format!(
        "{server} does not answer, or cannot do this now: start it, or correct {setting}; then run \
         this again"
    )
}

async fn execute(command: Option<Command>, settings: Settings) -> anyhow::Result<Outcome> {
    let command = command.unwrap_or(Command::Run);
    let reads_members = matches!(
        command,
        Command::Check(_)
            | Command::Erase(_)
            | Command::Files(_)
            | Command::Rejects(_)
            | Command::Verify(_)
    );
    let _keeping = reads_members.then(Keeping::begin);
    match command {
        Command::Run => Box::pin(run::execute(settings)).await,
        Command::Load(args) => load::execute(settings, args).await,
        Command::Demo(args) => demo::execute(settings, args).await,
        Command::Doctor(args) => doctor::execute(&settings, args).await,
        Command::Check(args) => check::execute(&settings, &args),
        Command::Generate(args) => generate::execute(&settings, &args),
        Command::Status(args) => status::execute(&settings, &args).await,
        Command::Health(args) => health::execute(&settings, &args).await,
        Command::Files(args) => files::execute(&settings, &args.command).await,
        Command::Rejects(args) => rejects::execute(&settings, &args.command).await,
        Command::Trace(args) => trace::execute(&settings, &args).await,
        Command::Erase(args) => erase::execute(&settings, &args).await,
        Command::Verify(args) => verify::execute(&settings, &args).await,
        Command::Summary(args) => summary::execute(&settings, &args).await,
        Command::Retain(args) => retain::execute(&settings, &args).await,
        Command::Migrate(args) => migrate::execute(&settings, &args).await,
        Command::Pause => pause::pause(&settings).await,
        Command::Resume => pause::resume(&settings).await,
        Command::Queue(args) => queue::execute(&settings, &args.command).await,
        Command::Config(args) => config::execute(&settings, &args.command),
        Command::Completions(args) => completions(&args),
        Command::Manual(args) => manual(&args),
    }
}

/// Runs a command that needs no settings, so that it works even if they are wrong. `None` if the
/// command needs them.
#[must_use]
pub fn without_settings(command: Option<&Command>) -> Option<anyhow::Result<Outcome>> {
    match command? {
        Command::Completions(args) => Some(completions(args)),
        Command::Manual(args) => Some(manual(args)),
        Command::Config(ConfigArgs {
            command: ConfigCommand::Init(args),
        }) => Some(config::init(args)),
        Command::Config(ConfigArgs {
            command: ConfigCommand::Schema,
        }) => Some(config::schema()),
        _ => None,
    }
}

/// Prints the completion script of a shell.
fn completions(args: &CompletionsArgs) -> anyhow::Result<Outcome> {
    print(&Cli::completions(args.shell))?;
    Ok(Outcome::Complete)
}

/// Writes the manual pages of all commands to a directory.
fn manual(args: &ManualArgs) -> anyhow::Result<Outcome> {
    let directory = &args.dir;
    Cli::write_manual(directory)
        .with_context(|| format!("writing manual pages to {}", directory.display()))?;
    Ok(Outcome::Complete)
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};

    use super::*;
    use crate::fault::Origin;

    #[test]
    fn a_server_that_does_not_answer_is_named_with_the_next_step() {
        let named = |fault: Fault| {
            let error = name_server(fault.into(), "mysql://u:***@db/v", "redis://queue");
            (format!("{error:#}"), Exit::of(&error))
        };
        let refused = || io::Error::from(ErrorKind::ConnectionRefused);
        let (message, exit) = named(Fault::transient(Origin::Sink, "connecting", refused()));
        assert!(
            message
                .starts_with("mysql://u:***@db/v does not answer, or cannot do this now: start it"),
            "{message}"
        );
        assert_eq!(exit, Exit::Unavailable);
        let (message, _) = named(Fault::transient(Origin::Broker, "connecting", refused()));
        assert!(message.contains("correct REDIS_URL"), "{message}");
        let locked = Fault::transient(Origin::Sink, "storing rows", "database is locked");
        let message = format!(
            "{:#}",
            name_server(locked.into(), "sqlite:/d/x.db", "memory:")
        );
        assert!(message.starts_with("sqlite:/d/x.db is in use"), "{message}");
        let (message, exit) = named(Fault::fatal(Origin::Sink, "wrong password", "1045"));
        assert_eq!((&*message, exit), ("wrong password: 1045", Exit::Config));
    }
}
