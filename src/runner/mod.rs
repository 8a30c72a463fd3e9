//! Puts the stages together: a load that ends, and a service that runs until it is stopped.
//!
//! `open` creates an engine from settings, and `engine` holds it. `load`, `serve` and `drain` run
//! it with `workers`. `plan` finds the files of a load. `health` answers `/readyz` and status, with
//! the history in `journal`. `observe` updates the metrics. `indexes` defers the indexes of a load,
//! `history` keeps history within its limits, and `partitions` the partitions of tables. `nodes` is this
//! process among the others, which `membership` knows.

mod drain;
mod engine;
mod health;
mod history;
mod indexes;
mod journal;
mod load;
mod membership;
mod nodes;
mod observe;
mod open;
mod partitions;
mod plan;
mod serve;
mod workers;

pub use drain::Drain;
pub use engine::{Engine, EngineOptions};
pub use indexes::{BUILD_MISSING, Built, build_missing};
pub use journal::Journal;
pub(crate) use membership::as_status as nodes_as_status;
pub(crate) use nodes::LOAD;
pub use open::{open, open_to_load};
pub use plan::{LoadPlan, Source, sort, sources};
