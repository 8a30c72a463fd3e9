//! Puts the stages together: a load that ends, and a service that runs until it is stopped.
//!
//! `open` makes an engine from settings; `engine` holds it; `load`, `serve` and `drain` run it, over
//! `workers`. `plan` finds the files of a load. `health` answers for it, from what `journal`
//! remembers; `observe` feeds the metrics.

mod drain;
mod engine;
mod health;
mod journal;
mod load;
mod observe;
mod open;
mod plan;
mod serve;
mod workers;

pub use drain::Drain;
pub use engine::{Engine, EngineOptions};
pub use journal::Journal;
pub use open::{open, open_to_load};
pub use plan::{LoadPlan, Source, sort, sources};
