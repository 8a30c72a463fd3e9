//! The errors of the settings.

/// An invalid setting. The message names it, where it was set, and what is valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

/// The name of a dataset that the settings do not have. The message lists those that they have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownDataset(String);

impl UnknownDataset {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}
