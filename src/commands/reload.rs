//! SIGHUP of a service: reads its settings again, and takes over those that can change while it runs.
//!
//! Settings that cannot be used change nothing.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Settings;
use crate::telemetry::logging;

/// The signal. Its default is to end the process, so it is caught before the work begins.
///
/// # Errors
/// The handler cannot be installed.
pub(super) fn signals() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reloads at each signal, for ever. `take_over` is given settings that can be used.
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

/// The settings of now; `None`, with the reason in the log, if they cannot be used.
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
