//! The commands: each turns settings and arguments into calls of the engine, and says what came of
//! it. Data goes to stdout, messages to stderr; the exit code says how it ended.
//!
//! `execute` of a command owns nothing that outlives it, and two commands know nothing of each
//! other.

use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;

use crate::config::Settings;
use crate::config::cli::{Command, ConfigCommand, RunArgs};
use crate::fault::Fault;
use crate::sink::Sink;

mod check;
mod demo;
mod exit;
pub mod generate;
mod load;
mod migrate;
mod run;
mod status;
mod summary;

pub use exit::{Exit, NoInput, Outcome};

/// Does what the command line says; no command is `run`.
///
/// # Errors
/// What the command failed at; [`Exit::of`] knows its exit code.
pub async fn dispatch(command: Option<Command>, settings: Settings) -> anyhow::Result<Outcome> {
    match command.unwrap_or(Command::Run(RunArgs {})) {
        Command::Run(args) => run::execute(settings, args).await,
        Command::Load(args) => load::execute(settings, args).await,
        Command::Demo(args) => demo::execute(settings, args).await,
        Command::Check(args) => check::execute(&settings, &args),
        Command::Generate(args) => generate::execute(&settings, &args),
        Command::Status(args) => status::execute(&settings, &args).await,
        Command::Summary(args) => summary::execute(&settings, &args).await,
        Command::Migrate(args) => migrate::execute(&settings, &args).await,
        Command::Config(args) => match args.command {
            ConfigCommand::Show => {
                say(&settings.to_string())?;
                Ok(Outcome::Complete)
            }
        },
    }
}

/// The database of the settings, connected.
async fn open_sink(settings: &Settings) -> Result<Arc<dyn Sink>, Fault> {
    // The seam to the sink's own `open`, which is being written.
    Err(Fault::fatal(
        crate::fault::Origin::Sink,
        "this build has no database yet",
        crate::config::redacted(&settings.database_url),
    ))
}

/// Writes data to stdout. A reader that has gone (`| head`) has seen what it wanted.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
