//! Sends metrics and spans to a receiver of OTLP over HTTP, every ten seconds and at the end.
//!
//! Runs beside the work of a command and never delays it: the work adds spans to a bounded queue, and
//! a receiver that is away costs only spans. The metrics are those of `/metrics`, whose values are
//! sums since the start, so that an export that fails loses none of them. One line of the log tells
//! that exports of a signal fail, and one that they work again.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

mod client;
mod messages;
mod series;

use client::{Client, Failure, Signal};
use series::Window;

use crate::telemetry::traces::{self, Span};
use crate::telemetry::{self, Handle};

pub use client::{check, problem};

/// Pause between two exports.
const EXPORT_EVERY: Duration = Duration::from_secs(10);

/// How long the last export may take, which delays the end of the process.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause that a receiver may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Most spans in a request: about 200 KB.
const SPANS_PER_REQUEST: usize = 512;

/// What is sent, and where.
pub struct Otlp {
    client: Client,
    resource: Resource,
    metrics: Handle,
    /// Since when the metrics count, in nanoseconds since the epoch.
    begin: u64,
    /// Spans that the receiver has not taken yet.
    spans: Vec<Span>,
    /// The receiver is not asked earlier.
    not_before: Instant,
    /// Whether the last export of metrics, and that of traces, failed.
    fails: [bool; 2],
}

impl Otlp {
    /// Begins to keep spans. `url` is that of the receiver, `headers` a file with headers of the
    /// requests, and `instance` the name of this process.
    ///
    /// # Errors
    /// The URL cannot be used, or a file cannot be read. The message names it.
    pub fn new(
        url: &str,
        headers: Option<&Path>,
        instance: &str,
        metrics: Handle,
    ) -> Result<Self, String> {
        let client = Client::new(url, headers)?;
        traces::begin();
        Ok(Self {
            client,
            resource: messages::resource(instance),
            metrics,
            begin: now_unix_ns(),
            spans: Vec::new(),
            not_before: Instant::now(),
            fails: [false; 2],
        })
    }

    /// Runs the work and sends until it ends, and then once more. Without a receiver (`otlp` is
    /// `None`), runs the work alone. `abort` ends the last export.
    pub async fn beside<T>(
        otlp: Option<Self>,
        abort: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> T {
        let Some(otlp) = otlp else {
            return work.await;
        };
        let ended = CancellationToken::new();
        // A task of its own, so that exports and the work do not wait for each other's processor time.
        let sending = tokio::spawn(otlp.run(ended.clone(), abort.clone()));
        let ended = ended.drop_guard();
        let result = work.await;
        drop(ended);
        if let Err(error) = sending.await {
            tracing::error!(%error, "the export of metrics and traces has ended");
        }
        result
    }

    async fn run(mut self, ended: CancellationToken, abort: CancellationToken) {
        loop {
            tokio::select! {
                () = ended.cancelled() => break,
                () = async { sleep(EXPORT_EVERY).await; self.export().await } => {}
            }
        }
        let last = async {
            loop {
                sleep_until(self.not_before).await;
                self.export().await;
                // Only a receiver that names a time is asked again: one that is away would delay the
                // end of every process.
                if self.not_before <= Instant::now() {
                    break;
                }
            }
        };
        tokio::select! {
            _ = timeout(LAST_EXPORT_TIMEOUT, last) => {}
            () = abort.cancelled() => {}
        }
        self.spans.extend(traces::take(usize::MAX));
        if !self.spans.is_empty() {
            traces::dropped(self.spans.len() as u64);
            tracing::warn!(
                spans = self.spans.len(),
                "the receiver of otlp_url did not get the last spans"
            );
        }
    }

    /// Sends the current metrics, and the spans since the last time.
    async fn export(&mut self) {
        if Instant::now() < self.not_before {
            return;
        }
        let text = self.metrics.render();
        let window = Window {
            begin: self.begin,
            now: now_unix_ns(),
        };
        let message = messages::of_metrics(&self.resource, series::metrics(&text, window));
        if self.send(Signal::Metrics, message).await == Sent::Later {
            return;
        }
        loop {
            if self.spans.is_empty() {
                self.spans = traces::take(SPANS_PER_REQUEST);
            }
            if self.spans.is_empty() {
                return;
            }
            let message = messages::of_spans(&self.resource, &self.spans);
            match self.send(Signal::Traces, message).await {
                Sent::Later => return,
                Sent::Refused(spans) => {
                    let all = self.spans.len() as u64;
                    traces::dropped(spans.unwrap_or(all).min(all));
                }
                Sent::Taken => {}
            }
            self.spans.clear();
        }
    }

    async fn send(&mut self, signal: Signal, message: Vec<u8>) -> Sent {
        let (sent, why) = match self.client.send(signal, message).await {
            Ok(answer) => match messages::refused(signal, &answer) {
                None => (Sent::Taken, String::new()),
                Some((part, why)) => (Sent::Refused(Some(part)), why),
            },
            Err(Failure::Refused(why)) => (Sent::Refused(None), why),
            Err(Failure::Later(why, pause)) => {
                let pause = pause.unwrap_or_default().min(PAUSE_MAX);
                self.not_before = Instant::now() + pause;
                (Sent::Later, why)
            }
        };
        self.note(signal, sent, &why);
        sent
    }

    /// Counts a failure. Logs the first one, and the first success after it.
    fn note(&mut self, signal: Signal, sent: Sent, why: &str) {
        let (signal_name, fails) = (signal.as_str(), sent != Sent::Taken);
        if fails {
            telemetry::otlp_failed(signal_name);
        }
        let failed = std::mem::replace(&mut self.fails[signal as usize], fails);
        let url = &self.client.shown;
        if fails && !failed {
            tracing::warn!(
                url,
                signal = signal_name,
                why,
                "the receiver of otlp_url does not take what is sent; the work goes on, and exports \
                 are tried again"
            );
        } else if failed && !fails {
            tracing::info!(
                url,
                signal = signal_name,
                "the receiver of otlp_url takes what is sent"
            );
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Taken,
    /// The receiver refused it for ever, or this many of its points or spans.
    Refused(Option<u64>),
    /// The receiver is away or busy.
    Later,
}

fn now_unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}
