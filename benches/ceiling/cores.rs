//! The distance of two cores: the time in which a cache line moves from one to the other and back.
//!
//! In a virtual machine it changes when the host moves its cores. Programs that share memory
//! between threads, such as the latches of a server, become faster or slower with it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::meter;

/// Duration of an attempt, and number of attempts. There are several, because in some of them both
/// threads may share a core.
const LASTS: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 3;

/// The first thread writes it to end the attempt.
const OVER: u64 = u64::MAX;

/// Prints the mean round trip of the best attempt, in nanoseconds. It takes two cores.
pub(super) fn measure() {
    let round_trip_ns = (0..ATTEMPTS)
        .map(|_| attempt())
        .fold(f64::INFINITY, f64::min);
    let words = serde_json::json!({ "part": "cores", "round_trip_ns": round_trip_ns });
    meter::print(serde_json::json!({}), &words);
}

/// The mean round trip, in nanoseconds.
fn attempt() -> f64 {
    let turn = AtomicU64::new(0);
    let (round_trips, elapsed) = thread::scope(|scope| {
        scope.spawn(|| answer(&turn));
        let began = Instant::now();
        let mut asked = 0;
        while began.elapsed() < LASTS {
            // Reading the clock costs as much as a round trip.
            for _ in 0..100 {
                turn.store(asked + 1, Ordering::Release);
                asked += 2;
                while turn.load(Ordering::Acquire) != asked {
                    spin_loop();
                }
            }
        }
        let elapsed = began.elapsed();
        turn.store(OVER, Ordering::Release);
        (asked / 2, elapsed)
    });
    elapsed.as_secs_f64() * 1e9 / round_trips as f64
}

/// Answers each odd number with the next even one.
fn answer(turn: &AtomicU64) {
    loop {
        match turn.load(Ordering::Acquire) {
            OVER => return,
            asked if asked % 2 == 1 => turn.store(asked + 1, Ordering::Release),
            _ => spin_loop(),
        }
    }
}
