//! Files that cannot be read just now: tried again beside all else, and told of meanwhile.

use std::cell::Cell;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Mutex;

use super::prepare::{Prepared, is_of_device, read_again};
use super::{Item, Shared};
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};

/// Files that could not be read just now and are tried again while others go on. With so many of
/// them those that come have to wait, or else all of inbound would be claimed and lie in work,
/// unread. A group may bring as many again, since it comes whole.
const FAULTY_FILES_MAX: usize = 256;

/// Reads a file until that works. One file at a time is read in this way: large ones would take the
/// room on the disk from each other, and what was read waits in memory until it is started.
pub(super) async fn read_in_turn(
    shared: &Arc<Shared>,
    item: Item,
    turn: &Mutex<()>,
) -> Result<Prepared, GivenUp> {
    // The first attempt was that of its group.
    let attempts = Cell::new(2);
    let again = async || {
        let _turn = turn.lock().await;
        read_again(shared, &item, attempts.get()).await
    };
    // A wait for room on the disk says nothing about the device.
    let failed = |fault: &Fault| {
        let io = fault.cause.downcast_ref::<std::io::Error>();
        attempts.set(attempts.get() + u32::from(io.is_some_and(is_of_device)));
        shared.tally().hold(&item.file, &fault.to_string());
    };
    let read = until_ok("reading files", &shared.stop, failed, again).await;
    shared.tally().release(&item.file);
    read
}

/// The next of the faulty files that could be read by now. Waits for one where there are too many.
pub(super) async fn read_by_now<F: Future>(faulty: &mut FuturesUnordered<F>) -> Option<F::Output> {
    if faulty.len() < FAULTY_FILES_MAX {
        faulty.next().now_or_never().flatten()
    } else {
        faulty.next().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn faulty_files_are_waited_for_only_where_they_are_too_many() {
        let read_after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let mut faulty = FuturesUnordered::new();
        assert_eq!(read_by_now(&mut faulty).await, None);
        for second in 1..FAULTY_FILES_MAX as u64 {
            faulty.push(read_after(second));
        }
        assert_eq!(read_by_now(&mut faulty).await, None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(read_by_now(&mut faulty).await, Some(1));
        assert_eq!(read_by_now(&mut faulty).await, Some(2));
        assert_eq!(read_by_now(&mut faulty).await, None);
        faulty.extend([300, 300, 300].map(read_after));
        assert_eq!(read_by_now(&mut faulty).await, Some(3));
        assert_eq!(read_by_now(&mut faulty).await, None);
    }
}
