//! The text form of Prometheus (version 0.0.4), which upstream's endpoints speak: samples carry the time they
//! were taken at, for which the OpenMetrics encoder of the crate that we use elsewhere has no place.

use std::fmt::Write as _;

pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A text that grows by families of samples.
#[derive(Default)]
pub struct Exposition(String);

/// A sample's labels and value; the time in milliseconds since 1970, where it is told.
pub struct Point<'a> {
    pub labels: &'a [(&'a str, &'a str)],
    pub value: f64,
    pub at_ms: Option<i64>,
}

impl Exposition {
    /// A family without samples is left out.
    pub fn family<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        points: impl IntoIterator<Item = Point<'a>>,
    ) {
        let mut points = points.into_iter().peekable();
        if points.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for point in points {
            self.point(name, &point);
        }
    }

    fn point(&mut self, name: &str, point: &Point<'_>) {
        self.0.push_str(name);
        for (at, (label, value)) in point.labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for character in value.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !point.labels.is_empty() {
            self.0.push('}');
        }
        let _ = write!(self.0, " {}", point.value);
        if let Some(at_ms) = point.at_ms {
            let _ = write!(self.0, " {at_ms}");
        }
        self.0.push('\n');
    }

    pub fn text(self) -> String {
        self.0
    }
}

/// Seconds, of nanoseconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_scrapers_read_them() {
        let mut out = Exposition::default();
        let point = |labels, at_ms| Point { labels, value: seconds(1_500_000_000), at_ms };
        out.family(
            "a_total",
            Kind::Counter,
            "Help.",
            [point(&[("x", "a\"b\\c\nd"), ("y", "")], Some(7)), point(&[], None)],
        );
        out.family("nothing", Kind::Gauge, "Not there.", []);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 1.5 7\na_total 1.5\n";
        assert_eq!(out.text(), expected);
    }
}
