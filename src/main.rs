//! `task_runner`: parses the command line, runs the command, and returns its exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use lemonade_task::allocator::Allocator;
use lemonade_task::commands::{self, Exit};
use lemonade_task::config::cli::{Cli, Colour, Command};
use lemonade_task::config::{self, Environment, LogFormat, Settings};
use lemonade_task::contained;
use lemonade_task::telemetry::logging::{self, LogStyle};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    Allocator::set_up();
    exit_on_panic();
    let cli = match Cli::from_command_line(std::env::args_os()) {
        Ok(cli) => cli,
        Err(message) => return print_usage(&message),
    };
    run(cli)
        .unwrap_or_else(|error| {
            // `:#` prints the error and its causes on one line.
            let message = format!("{error:#}");
            print_error(&format!("task_runner: {message}"));
            commands::report_end(&message);
            Exit::of(&error)
        })
        .into()
}

/// Threads for the tasks that wait for servers: half as many as cores, since parsing has threads of
/// its own. A task that moves to another thread frees memory of the first one, which costs: on two
/// cores, one thread takes 7 % less processor time for an event than two.
fn task_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn run(mut cli: Cli) -> anyhow::Result<Exit> {
    if let Some(done) = commands::without_settings(cli.command.as_ref()) {
        return done.map(Exit::from);
    }
    let environment = Environment::read(Path::new(config::DOTENV))?;
    let settings = Settings::resolve(cli.options, &environment)?;
    let level = if cli.quiet {
        "error"
    } else {
        &*settings.log_level
    };
    logging::init(log_style(settings.log_format, cli.color), level)?;
    if let Some(Command::Load(args)) = &mut cli.command {
        args.no_progress |= cli.quiet;
    }
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(task_threads())
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(commands::dispatch(cli.command, settings));
    logging::flush();
    // Does not wait for tasks that still run: the next start repeats unfinished work.
    runtime.shutdown_background();
    outcome.map(Exit::from)
}

/// Ends the process after a panic in any thread, unless the panic becomes an error. With one stage
/// missing, the process would look healthy and load nothing. The next start continues from the
/// ledger.
fn exit_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if contained::is_running() {
            return;
        }
        print(panic);
        print_error(
            "task_runner: this is a bug; nothing is lost: start it again, and report the lines above",
        );
        std::process::exit(Exit::Internal as i32);
    }));
}

/// Prints help or version to stdout, a usage error to stderr.
fn print_usage(message: &clap::Error) -> ExitCode {
    // A closed stdout or stderr is ignored.
    let _ = message.print();
    if message.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Complete.into()
    }
}

fn log_style(format: LogFormat, colour: Colour) -> LogStyle {
    let terminal = io::stderr().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match format {
        LogFormat::Json => LogStyle::Json,
        LogFormat::Auto if !terminal => LogStyle::Json,
        LogFormat::Text | LogFormat::Auto => LogStyle::Text {
            colour: match colour {
                Colour::Auto => terminal && !no_colour,
                Colour::Always => true,
                Colour::Never => false,
            },
        },
    }
}

/// Prints a message to stderr. A closed stderr is ignored.
fn print_error(message: &str) {
    let _ = writeln!(io::stderr(), "{}", logging::shown(message));
}
