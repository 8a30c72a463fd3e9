//! What the handlers of requests share.

use std::sync::Arc;

use super::access::Access;
use super::outcomes::Outcomes;
use crate::console::Console;
use crate::status::StatusSource;

/// What the requests are answered from.
pub(super) struct Site {
    pub(super) status: Arc<dyn StatusSource>,
    pub(super) console: Arc<dyn Console>,
    pub(super) access: Access,
    pub(super) outcomes: Outcomes,
}
