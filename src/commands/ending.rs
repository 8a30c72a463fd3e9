//! How signals end the process of a command. The engine ends by itself. What hangs, such as a read of
//! a huge directory or of a database that does not answer, ends with the process.
//!
//! Nothing is lost: each step of the engine may be the last one.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Exit, progress};
use crate::shutdown::Shutdown;
use crate::telemetry::logging;

/// How long the last line may take: nobody may read the pipe that it goes to.
const TELL_WITHIN: Duration = Duration::from_millis(500);

/// The shutdown of a command that ends once its work is done. It ends the process if that goes on
/// after a second signal.
///
/// # Errors
/// The signal handlers cannot be installed.
pub(super) fn on_signals(drain_timeout: Duration) -> io::Result<Shutdown> {
    Shutdown::on_signals(drain_timeout).map(with_exit)
}

/// The shutdown of a service, which reloads its settings at SIGHUP.
///
/// # Errors
/// The signal handlers cannot be installed.
pub(super) fn of_service(drain_timeout: Duration) -> io::Result<Shutdown> {
    Shutdown::of_service(drain_timeout).map(with_exit)
}

fn with_exit(shutdown: Shutdown) -> Shutdown {
    let exit = shutdown.exit.clone();
    tokio::spawn(async move {
        exit.cancelled().await;
        end_now();
    });
    shutdown
}

/// Ends the process, with the terminal as it was.
fn end_now() -> ! {
    let (done, is_told) = mpsc::channel();
    let _ = thread::Builder::new().spawn(move || {
        progress::clear();
        tracing::warn!(
            "ends now, in the middle of its work; nothing is lost, the next start continues"
        );
        logging::flush();
        // An error means that the process does not wait any longer.
        let _ = done.send(());
    });
    // Errors mean that the line is not printed.
    let _ = is_told.recv_timeout(TELL_WITHIN);
    std::process::exit(Exit::Stopped as i32);
}
