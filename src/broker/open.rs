//! The choice of the broker by its URL.

use std::sync::Arc;

use super::{Broker, BrokerOptions, memory, redis};
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};

/// Opens the broker of the URL: `memory:`, or one of [`redis::SCHEMES`]. It carries frames of the
/// given datasets. Publishing a frame of another dataset is a bug.
///
/// Connects to the server once, so that a wrong password is reported at the start.
///
/// # Errors
/// Fatal if the URL, the options or the credentials are wrong. Transient if the server cannot be
/// reached: call again.
pub async fn open(
    url: &str,
    options: &BrokerOptions,
    datasets: &Datasets,
) -> Result<Arc<dyn Broker>, Fault> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    if scheme == "memory" {
        return Ok(Arc::new(memory::MemoryBroker::new(options.queue_bytes_max)));
    }
    if redis::SCHEMES.contains(&scheme) {
        // On the heap, because it is large.
        let opening = Box::pin(redis::RedisBroker::open(url, options, datasets));
        return Ok(Arc::new(opening.await?));
    }
    // Only the scheme: the rest of a URL may contain a password.
    let cause = format!("`{scheme}:` is not a scheme of a queue");
    Err(
        Fault::fatal(Origin::Broker, "reading the URL of the queue", cause).with_next_step(
            "use `memory:`, `redis://host:6379` (`rediss://` with TLS), \
             `redis-cluster://host:6379,host:6379` or `redis+unix:///path`",
        ),
    )
}
