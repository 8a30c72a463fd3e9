//! Contains code of other crates that may panic on bytes from the network: turns the panic into an
//! error.
//!
//! Any other panic ends the process, which would otherwise look healthy with one task missing. The
//! panic hook of the program calls [`is_running`] to distinguish the two.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// The text of a panic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Panicked(String);

/// Whether this thread runs contained code, so that a panic is returned as an error.
#[must_use]
pub fn is_running() -> bool {
    RUNNING.get()
}

/// Awaits `future`. After a panic, it is not polled again, and the caller must only drop the values
/// that it borrows.
///
/// # Errors
/// [`Panicked`] if it panics.
pub async fn contained<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let before = RUNNING.replace(true);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        RUNNING.set(before);
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(Panicked(text(panic.as_ref())))),
        }
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        return text.clone();
    }
    let text = panic.downcast_ref::<&str>().copied();
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_everything_else_is_as_before() {
        let running = contained(async {
            tokio::task::yield_now().await;
            is_running()
        });
        assert_eq!((running.await, is_running()), (Ok(true), false));
        let broken = contained(async {
            tokio::task::yield_now().await;
            let key: Vec<u8> = Vec::new();
            key[1..].to_vec()
        });
        let error = broken.await.unwrap_err().to_string();
        assert!(error.contains("range start index 1"), "{error}");
        let broken = contained(async { panic!("no key") });
        assert_eq!(broken.await, Err(Panicked("no key".to_owned())));
        assert!(!is_running());
    }
}
