//! Tells systemd how the service is: ready, alive, stopping. Where no `NOTIFY_SOCKET` is set, which
//! is everywhere but under such a supervisor, nobody is told and nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether there is something to tell.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The loop of the engine shows every second that it turns; a busy machine may be late.
const TURN_MIN: Duration = Duration::from_secs(3);

/// Tells, for ever: `READY=1` once it can work for the first time; `STATUS=` when that changes;
/// `WATCHDOG=1` as long as its main loop turns, so that a service that hangs is started again;
/// `STOPPING=1` once `quiet` is cancelled.
///
/// `ready` says whether it can work, and if not, why; `turned_within` whether its main loop turned
/// within a time.
pub(super) async fn report_state(
    ready: impl Fn() -> Result<(), String>,
    turned_within: impl Fn(Duration) -> bool,
    quiet: &CancellationToken,
) {
    let watchdog = sd_notify::watchdog_enabled();
    // Three times within the limit, so that one late beat does no harm.
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
            _ if stopping => "stopping: finishes what is in flight".to_owned(),
            Ok(()) => "ready".to_owned(),
            Err(reason) => format!("not ready: {reason}").replace(char::is_control, " "),
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

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
