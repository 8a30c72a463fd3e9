//! The chart of the status page: records read, stored and rejected per second over the last minutes or
//! the last hour, with axes, and the values of a sample under the pointer.
//!
//! The picture stretches with the page, so its texts are beside it. A sample is as wide as the distance
//! to the next one; its values are in a `<title>`, which browsers show without a script.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::status::{History, Status, grouped, length};

/// Size of the chart in units of the SVG, which the browser scales.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// Most samples in the chart. Fewer samples fill it from the right.
const SAMPLES: usize = 150;

/// How much of the past the chart shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Range {
    /// The last minutes.
    Minutes,
    /// The last hour.
    Hour,
}

impl Range {
    /// Every range, with its value in the address of the page and its text.
    const ALL: [(Self, &'static str, &'static str); 2] = [
        (Self::Minutes, "minutes", "5 minutes"),
        (Self::Hour, "hour", "1 hour"),
    ];

    /// The range with this value in the address of the page. Any other value means the minutes.
    pub(in crate::http) fn parse(text: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, value, _)| *value == text);
        found.map_or(Self::Minutes, |(range, ..)| *range)
    }
}

/// The chart.
pub(super) fn chart(status: &Status, range: Range) -> Markup {
    let history = match range {
        Range::Minutes => &status.history,
        Range::Hour => &status.last_hour,
    };
    html! {
        section aria-labelledby="chart" {
            div.heading {
                h2 id="chart" { "Records per second" }
                nav aria-label="Range of the chart" {
                    @for (of, value, text) in Range::ALL {
                        @if of == range {
                            " " strong aria-current="true" { (text) }
                        } @else {
                            " " a href=(format!("?range={value}")) { (text) }
                        }
                    }
                }
            }
            (drawn(history, status.records_per_second))
        }
    }
}

/// The picture, its legend and its axes.
fn drawn(history: &History, now: Option<f64>) -> Markup {
    let History {
        every_seconds,
        records_per_second: stored,
        read_per_second: read,
        rejected_per_second: rejected,
        ready,
    } = history;
    let every = every_seconds.max(1.0);
    let past = SAMPLES as f64 * every;
    let all = stored.iter().chain(read).chain(rejected);
    let highest = scale(all.copied().max().unwrap_or(0));
    let mean = grouped(stored.iter().sum::<u64>() / (stored.len() as u64).max(1));
    let now = grouped(now.unwrap_or_default() as u64);
    let most = grouped(stored.iter().copied().max().unwrap_or(0));
    let label = format!(
        "Records per second over the last {}: stored now {now}, mean {mean}, highest {most}",
        length(past)
    );
    let samples = stored.len().min(SAMPLES);
    let place = Place {
        step: WIDTH / (SAMPLES - 1) as f64,
        first: SAMPLES - samples,
        highest,
    };
    let last = |series: &[u64]| series[series.len().saturating_sub(samples)..].to_vec();
    let [read, stored, rejected] = [read, stored, rejected].map(|series| last(series));
    let ready = &ready[ready.len().saturating_sub(samples)..];
    let down = (0..samples).filter(|at| ready.get(*at) == Some(&false));
    let lines = [0, 1, 2].map(|part| format!("M0 {:.1}H{WIDTH}", place.y(highest * part / 2)));
    let curve = place.curve(&stored);
    let seconds_ago = |at: usize| (samples - 1 - at) as f64 * every;
    html! {
        p.legend {
            span.key.read { "read" } " " span.key.stored { "stored" } " " span.key.rejected { "rejected" }
            @if ready.contains(&false) { " " span.key.down { "not ready" } }
            small { "stored: highest " (most) ", mean " (mean) }
        }
        div.chart {
            ol.scale aria-hidden="true" {
                @for part in [2, 1, 0] { li { (grouped(highest * part / 2)) } }
            }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img"
                aria-label=(label) {
                @for at in down {
                    rect.down x=(place.left(at)) y="0" width=(place.width(at)) height=(HEIGHT) {}
                }
                @for line in lines { path.grid d=(line) {} }
                @if !stored.is_empty() {
                    path.area d=(format!("M{:.1},{HEIGHT}L{curve} {WIDTH},{HEIGHT}Z", place.x(0))) {}
                    path.curve.stored d=(format!("M{curve}")) {}
                }
                @if !read.is_empty() { path.curve.read d=(format!("M{}", place.curve(&read))) {} }
                @if !rejected.is_empty() {
                    path.curve.rejected d=(format!("M{}", place.curve(&rejected))) {}
                }
                @for at in 0..samples {
                    rect.sample x=(place.left(at)) y="0" width=(place.width(at)) height=(HEIGHT) {
                        title {
                            (length(seconds_ago(at))) " ago: " (value(&read, at)) " read, "
                            (value(&stored, at)) " stored, " (value(&rejected, at)) " rejected"
                            @if ready.get(at) == Some(&false) { ", not ready" }
                        }
                    }
                }
            }
        }
        div.ends {
            small { (length(past)) " ago" }
            small { (length(past / 2.0)) " ago" }
            small { "now" }
        }
    }
}

fn value(series: &[u64], at: usize) -> String {
    series
        .get(at)
        .map_or("–".to_owned(), |value| grouped(*value))
}

/// The value at the top of the chart: at least `highest`, and 1, 2 or 5 times a power of ten, so that
/// its half is a number that people read at once. At least 2.
fn scale(highest: u64) -> u64 {
    let mut power: u64 = 1;
    loop {
        for digit in [1, 2, 5] {
            let top = power.saturating_mul(digit);
            if top >= highest.max(2) {
                return top;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// Where samples are in the chart.
struct Place {
    /// The distance of two samples.
    step: f64,
    /// How many places at the left have no sample yet.
    first: usize,
    /// The value at the top.
    highest: u64,
}

impl Place {
    fn x(&self, at: usize) -> f64 {
        self.step * (self.first + at) as f64
    }

    fn y(&self, value: u64) -> f64 {
        HEIGHT - value as f64 / self.highest as f64 * (HEIGHT - 4.0)
    }

    /// The left end of the part of the chart that belongs to a sample.
    fn left(&self, at: usize) -> String {
        format!("{:.1}", (self.x(at) - self.step / 2.0).max(0.0))
    }

    fn width(&self, at: usize) -> String {
        let left = (self.x(at) - self.step / 2.0).max(0.0);
        format!("{:.1}", (self.x(at) + self.step / 2.0).min(WIDTH) - left)
    }

    fn curve(&self, series: &[u64]) -> String {
        let mut curve = String::new();
        for (at, value) in series.iter().enumerate() {
            write!(curve, " {:.1},{:.1}", self.x(at), self.y(*value))
                .expect("writing to a String cannot fail");
        }
        curve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_a_point_and_the_values_of_each_sample_and_marks_outages() {
        let history = History {
            every_seconds: 2.0,
            records_per_second: vec![0, 50, 100],
            read_per_second: vec![80, 1_080, 200],
            rejected_per_second: vec![0, 0, 7],
            ready: vec![true, false, true],
        };
        let html = drawn(&history, Some(100.0)).into_string();
        let curve = "class=\"curve stored\" d=\"M 591.9,100.0 596.0,97.6 600.0,95.2\"";
        assert!(html.contains(curve), "{html}");
        assert_eq!(html.matches("class=\"down\"").count(), 1, "{html}");
        for text in [
            "over the last 5 min 0 s: stored now 100, mean 50, highest 100",
            "<title>4 s ago: 80 read, 0 stored, 0 rejected</title>",
            "<title>2 s ago: 1,080 read, 50 stored, 0 rejected, not ready</title>",
            "<title>0 s ago: 200 read, 100 stored, 7 rejected</title>",
            "<li>2,000</li><li>1,000</li><li>0</li>",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
        let empty = drawn(&History::default(), None).into_string();
        assert!(
            !empty.contains("curve") && !empty.contains("sample"),
            "{empty}"
        );
    }

    #[test]
    fn the_scale_is_a_round_number() {
        for (highest, top) in [
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 5),
            (10, 10),
            (11, 20),
            (49_999, 50_000),
            (50_001, 100_000),
        ] {
            assert_eq!(scale(highest), top, "{highest}");
        }
        assert!(scale(u64::MAX) == u64::MAX);
    }

    #[test]
    fn the_range_is_in_the_address() {
        assert_eq!(Range::parse("hour"), Range::Hour);
        assert_eq!(Range::parse("x"), Range::Minutes);
        let html = chart(&Status::default(), Range::Hour).into_string();
        assert!(html.contains("href=\"?range=minutes\""), "{html}");
        assert!(html.contains("aria-current=\"true\">1 hour"), "{html}");
    }
}
