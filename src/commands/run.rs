//! (stub)

use crate::config::Settings;
use crate::config::cli::RunArgs;

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
pub(super) async fn execute(_settings: Settings, _args: RunArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("`run` is not in this build yet")
}
