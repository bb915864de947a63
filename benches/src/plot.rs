//! Curves of P1 as pictures (SVG) in `docs`, drawn from the JSON that the benchmark has written.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::row::Row;

/// One measured point: the share of bare, with its 95% interval.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Point {
    count: f64,
    share: f64,
    interval: [f64; 2],
}

struct Curve {
    name: &'static str,
    color: &'static str,
    points: Vec<Point>,
}

struct Picture {
    file: &'static str,
    title: &'static str,
    /// What the horizontal axis counts.
    unit: &'static str,
    curves: Vec<Curve>,
}

/// Draws what the rows of a file show and returns the pictures' paths.
///
/// # Errors
/// When the file is not one of P1's, or a picture can't be written.
pub fn draw(json: &Path, docs: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read(json).with_context(|| format!("read {}", json.display()))?;
    let rows: Vec<Row> = serde_json::from_slice(&text).with_context(|| format!("read {}", json.display()))?;
    fs::create_dir_all(docs).with_context(|| format!("make {}", docs.display()))?;
    let mut paths = Vec::new();
    for picture in pictures(&rows) {
        ensure!(
            picture.curves.iter().all(|curve| !curve.points.is_empty()),
            "{}: no points in {}",
            picture.file,
            json.display()
        );
        let path = docs.join(picture.file);
        fs::write(&path, picture.svg()).with_context(|| format!("write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

fn pictures(rows: &[Row]) -> [Picture; 2] {
    let curve = |name, color, unit: &str, who: &str| Curve { name, color, points: points(rows, unit, who) };
    [
        Picture {
            file: "connections-by-services.svg",
            title: "New connections per second to the last Service, as a share of a direct one",
            unit: "services",
            curves: vec![
                curve("Skerry", "#1f6feb", "services", "last"),
                curve("nftables as kube-proxy writes it", "#c2410c", "services", "nftables last"),
                curve(
                    "iptables-legacy as kube-proxy writes it",
                    "#6b7280",
                    "services",
                    "iptables-legacy last",
                ),
            ],
        },
        Picture {
            file: "connections-by-backends.svg",
            title: "New connections per second to one Service, as a share of a direct one",
            unit: "backends",
            curves: vec![curve("Skerry", "#1f6feb", "backends", "")],
        },
    ]
}

/// Of the cases `COUNT UNIT, WHO` (or `COUNT UNIT`) against bare.
fn points(rows: &[Row], unit: &str, who: &str) -> Vec<Point> {
    let point = |row: &Row| {
        let (count, rest) = row.case.split_once(' ')?;
        let (counted, of) = rest.split_once(", ").unwrap_or((rest, ""));
        if row.peer_name != "bare" || counted != unit || of != who {
            return None;
        }
        Some(Point { count: count.parse().ok()?, share: row.ratio?, interval: row.ratio_interval? })
    };
    rows.iter().filter_map(point).collect()
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Of the field inside the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 736.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 364.0;
/// The share at the top of the field.
const HIGHEST: f64 = 1.1;

impl Picture {
    fn svg(&self) -> String {
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"16\" fill=\"#111827\">{}</text>\n",
            self.title
        );
        self.axes(&mut text);
        let mut x = LEFT;
        for curve in &self.curves {
            self.curve(&mut text, curve);
            let _ = writeln!(
                text,
                "<circle cx=\"{:.1}\" cy=\"54\" r=\"4\" fill=\"{}\"/><text x=\"{:.1}\" y=\"58\" font-size=\"12\" fill=\"#111827\">{}</text>",
                x + 4.0,
                curve.color,
                x + 14.0,
                curve.name
            );
            // A letter is 6.6 wide at most.
            x += 34.0 + 6.6 * curve.name.len() as f64;
        }
        text.push_str("</svg>\n");
        text
    }

    fn axes(&self, text: &mut String) {
        for tenth in (0..=10).step_by(2) {
            let share = f64::from(tenth) / 10.0;
            let y = vertical(share);
            let _ = writeln!(
                text,
                "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#e5e7eb\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" \
                 fill=\"#374151\">{share:.1}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for count in self.counts() {
            let _ = writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#374151\">{count}</text>",
                self.horizontal(count),
                BOTTOM + 20.0
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#374151\">{}</text>",
            f64::midpoint(LEFT, RIGHT),
            BOTTOM + 42.0,
            self.unit
        );
    }

    /// A line through the points, and a stroke over the interval of each.
    fn curve(&self, text: &mut String, curve: &Curve) {
        let mut line = String::new();
        for point in &curve.points {
            let (x, y) = (self.horizontal(point.count), vertical(point.share));
            let _ = write!(line, "{}{x:.1} {y:.1}", if line.is_empty() { "M" } else { "L" });
            let [low, high] = point.interval.map(vertical);
            let color = curve.color;
            let _ = writeln!(
                text,
                "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{color}\" stroke-opacity=\"0.4\" stroke-width=\"6\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>"
            );
        }
        let _ = writeln!(
            text,
            "<path d=\"{line}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            curve.color
        );
    }

    fn counts(&self) -> Vec<f64> {
        self.curves
            .first()
            .map(|curve| curve.points.iter().map(|point| point.count).collect())
            .unwrap_or_default()
    }

    /// By the logarithm of the count, from the least to the most.
    fn horizontal(&self, count: f64) -> f64 {
        const INSET: f64 = 40.0;
        let counts = self.counts();
        let (least, most) =
            (counts.iter().copied().fold(f64::MAX, f64::min), counts.iter().copied().fold(1.0, f64::max));
        let share = if most > least { (count / least).ln() / (most / least).ln() } else { 0.5 };
        LEFT + INSET + share * (RIGHT - LEFT - 2.0 * INSET)
    }
}

fn vertical(share: f64) -> f64 {
    BOTTOM - share / HIGHEST * (BOTTOM - TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_drawn_from_the_rows_against_bare() {
        let rows = [
            ("10 services, last", "bare"),
            ("1000 services, last", "bare"),
            ("10 services, last", "nft"),
            ("1 backends", "bare"),
        ]
        .map(|(case, peer)| Row::of_pairs("P1", case, "1/s", &[9.0, 9.0], &[10.0, 10.0], peer));
        let [services, backends] = pictures(&rows);
        let [ours, nft, _] = services.curves.as_slice() else { panic!("three curves") };
        assert_eq!(ours.points.iter().map(|point| point.count).collect::<Vec<_>>(), [10.0, 1000.0]);
        assert!(nft.points.is_empty() && backends.curves[0].points.len() == 1);
        assert_eq!(
            services.horizontal(100.0),
            f64::midpoint(services.horizontal(10.0), services.horizontal(1000.0))
        );
        assert!(services.svg().ends_with("</svg>\n"));
    }
}
