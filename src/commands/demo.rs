//! (stub)

use crate::config::Settings;
use crate::config::cli::DemoArgs;

use super::Outcome;

/// Stub.
///
/// # Errors
/// Always.
#[expect(
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "a stub"
)]
pub(super) async fn execute(_settings: Settings, _args: DemoArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("`demo` is not in this build yet")
}
