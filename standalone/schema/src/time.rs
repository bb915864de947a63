//! Times as Kubernetes writes them, and durations as `kubectl get` shows them.

use jiff::Timestamp;

/// Go's zero time: its clients read it as no time at all.
pub const ZERO_SECONDS: &str = "0001-01-01T00:00:00Z";
pub const ZERO_MICROS: &str = "0001-01-01T00:00:00.000000Z";

/// RFC 3339 with a zone, `2026-01-02T03:04:05Z`.
pub fn parse(text: &str) -> Option<Timestamp> {
    (text.len() >= 20 && text.as_bytes()[10] == b'T').then(|| text.parse().ok()).flatten()
}

/// The time between `then` (RFC 3339) and `now`, as AGE columns show it; `<unknown>` where there is no time.
pub fn age(then: Option<&str>, now: Timestamp) -> String {
    match then.filter(|then| *then != ZERO_SECONDS && *then != ZERO_MICROS).and_then(parse) {
        Some(then) => human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as upstream's HumanDuration writes them: two units while the big one is small, then one.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let days = hours / 24;
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        two(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstreams() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (601, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(human(seconds), shown, "{seconds}");
        }
    }

    #[test]
    fn times_are_read_and_written_in_utc() {
        let time = parse("2026-01-02T03:04:05.0000061+02:00").unwrap();
        assert_eq!(skerry_vocabulary::time::seconds(time), "2026-01-02T01:04:05Z");
        assert_eq!(skerry_vocabulary::time::micros(time), "2026-01-02T01:04:05.000006Z");
        for bad in ["", "2026-01-02", "yesterday", "2026-01-02 03:04:05Z", "2026-13-02T03:04:05Z"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
