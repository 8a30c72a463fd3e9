//! Which build this is.

use std::sync::LazyLock;

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the source. `None` if the build did not have `BUILD_COMMIT` in its environment.
pub const COMMIT: Option<&str> = option_env!("BUILD_COMMIT");

/// The day of the build, in UTC. `None` if the build did not have `BUILD_DATE` in its environment.
pub const DATE: Option<&str> = option_env!("BUILD_DATE");

/// Version, commit and day, as `--version` prints them.
#[must_use]
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| match (COMMIT, DATE) {
        (Some(commit), Some(date)) => format!("{VERSION} ({commit}, built {date})"),
        _ => VERSION.to_owned(),
    });
    &LONG
}
