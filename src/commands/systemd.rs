//! Reports the state of the service to systemd: ready, alive, stopping. Does nothing without
//! `NOTIFY_SOCKET`, which only systemd and similar supervisors set.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Interval of checking the state.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Shortest time without a run of the main loop that counts as a hang. The loop runs every second,
/// but may be late on a busy machine.
const TURN_MIN: Duration = Duration::from_secs(3);

/// Reports for ever: `READY=1` when the service can work for the first time, `STATUS=` at each
/// change, `WATCHDOG=1` while the main loop runs (systemd restarts a service that hangs), and
/// `STOPPING=1` once `quiet` is cancelled.
///
/// `ready` returns whether the service can work, or why not. `turned_within` returns whether the
/// main loop ran within a time.
pub(super) async fn report_state(
    ready: impl Fn() -> Result<(), String>,
    turned_within: impl Fn(Duration) -> bool,
    quiet: &CancellationToken,
) {
    let watchdog = sd_notify::watchdog_enabled();
    // Three times within the limit, so that one late report does no harm.
    let every = watchdog.map_or(CHECK_EVERY, |limit| CHECK_EVERY.min(limit / 3));
    let turn = watchdog.map(|limit| TURN_MIN.max(limit / 2));
    let (mut was_ready, mut stopping) = (false, false);
    let mut reported = String::new();
    loop {
        let ready = ready();
        if ready.is_ok() && !was_ready {
            notify(NotifyState::Ready);
            was_ready = true;
        }
        if quiet.is_cancelled() && !stopping {
            notify(NotifyState::Stopping);
            stopping = true;
        }
        let status = match ready {
            _ if stopping => "stopping: finishes the frames in flight".to_owned(),
            Ok(()) => "ready".to_owned(),
            Err(reason) => line(&format!("not ready: {reason}")),
        };
        if status != reported {
            notify(NotifyState::Status(&status));
            reported = status;
        }
        if turn.is_some_and(&turned_within) {
            notify(NotifyState::Watchdog);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = quiet.cancelled(), if !stopping => {}
        }
    }
}

/// Reports why the process ends, so that `systemctl status` shows it until the next start.
pub fn report_end(message: &str) {
    notify(NotifyState::Status(&line(message)));
}

/// A report is one line: the next line would be another field.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
