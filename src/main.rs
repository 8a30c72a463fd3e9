//! `task_runner`: reads what it is told, does it, and says by its exit code how it ended.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use lemonade_task::commands::{self, Exit};
use lemonade_task::config::cli::Cli;
use lemonade_task::config::{self, Environment, LogFormat, Settings};
use lemonade_task::telemetry::logging::{self, LogStyle};

/// Many threads allocate batches here and free them there, which is what this allocator is for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exit_on_panic();
    let cli = match Cli::from_command_line(std::env::args_os()) {
        Ok(cli) => cli,
        Err(message) => return print_usage(&message),
    };
    run(cli)
        .unwrap_or_else(|error| {
            // One line: causes follow each other, and each names what is to be done where it knows.
            print_error(&format!("task_runner: {error:#}"));
            Exit::of(&error)
        })
        .into()
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    if let Some(done) = commands::without_settings(cli.command.as_ref()) {
        return done.map(Exit::from);
    }
    let environment = Environment::read(Path::new(config::DOTENV))?;
    let settings = Settings::resolve(cli.options, &environment)?;
    logging::init(log_style(settings.log_format), &settings.log_level)?;
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(commands::dispatch(cli.command, settings));
    logging::flush();
    // Whatever still runs is of no use to anybody, and starting again is always safe.
    runtime.shutdown_background();
    outcome.map(Exit::from)
}

/// A panic is a bug, in whatever thread: the process ends, and a new one starts from the ledger.
/// Going on with a stage missing would look healthy and do nothing.
fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        print_error(
            "task_runner: this is a bug; nothing is lost, start again and report the lines above",
        );
        std::process::exit(Exit::Internal as i32);
    }));
}

/// Prints help or version to stdout, a usage error to stderr.
fn print_usage(message: &clap::Error) -> ExitCode {
    // A reader that has gone needs no help.
    let _ = message.print();
    if message.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Complete.into()
    }
}

fn log_style(format: LogFormat) -> LogStyle {
    let terminal = io::stderr().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match format {
        LogFormat::Json => LogStyle::Json,
        LogFormat::Auto if !terminal => LogStyle::Json,
        LogFormat::Text | LogFormat::Auto => LogStyle::Text {
            colour: terminal && !no_colour,
        },
    }
}

/// A message for a person; where stderr is closed, there is none to be told.
fn print_error(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}
