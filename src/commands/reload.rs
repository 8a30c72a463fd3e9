//! SIGHUP of a service: reads the settings again, and applies those that can change while it runs.
//!
//! If a setting is invalid, nothing changes.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Settings;
use crate::telemetry::logging;

/// Receives SIGHUP. By default, the signal ends a process, so the handler is installed before the
/// work begins.
///
/// # Errors
/// The handler cannot be installed.
pub(super) fn signals() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reloads at each signal, and never returns. Calls `take_over` with valid settings.
pub(super) async fn on_signals(
    started_with: &Settings,
    mut signals: Signal,
    take_over: impl Fn(Settings),
) {
    while signals.recv().await.is_some() {
        if let Some(settings) = reread(started_with) {
            take_over(settings);
        }
    }
    std::future::pending::<()>().await;
}

/// The current settings. `None` if they are invalid; the reason is logged.
fn reread(started_with: &Settings) -> Option<Settings> {
    let settings = match started_with.reread() {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(%error, "the settings are not reloaded, the old ones stay");
            return None;
        }
    };
    if let Err(error) = logging::set_directives(&settings.log_level) {
        tracing::error!(%error, "the settings are not reloaded, the old ones stay");
        return None;
    }
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    tracing::info!("the settings are reloaded");
    let later = started_with.changed_until_restart(&settings).join(", ");
    if !later.is_empty() {
        tracing::warn!(
            settings = later,
            "these have changed, and take effect at the next start"
        );
    }
    Some(settings)
}
