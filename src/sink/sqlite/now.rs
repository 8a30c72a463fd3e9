//! The current time, as the ledger writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::timestamp;

/// The current time, as the ledger writes it.
pub(super) fn now() -> String {
    timestamp::text(now_us())
}

/// The current time, in microseconds since the epoch.
pub(super) fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
