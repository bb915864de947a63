//! How numbers are spelt.

use std::time::Duration;

/// Processor time per time as a quantity: `250m`, `1234567n`.
pub fn cores(nano_cores: u64) -> String {
    let mut value = nano_cores;
    for suffix in ["n", "u", "m"] {
        if value == 0 || !value.is_multiple_of(1000) {
            return if value == 0 { "0".to_owned() } else { format!("{value}{suffix}") };
        }
        value /= 1000;
    }
    value.to_string()
}

/// Bytes as a quantity: `153600Ki`, `150Mi`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes;
    let mut suffix = "";
    for larger in ["Ki", "Mi", "Gi", "Ti"] {
        if value == 0 || !value.is_multiple_of(1024) {
            break;
        }
        (value, suffix) = (value / 1024, larger);
    }
    format!("{value}{suffix}")
}

/// A duration as Go writes it: `500ms`, `15.013s`, `1m0.5s`. To the millisecond.
pub fn duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let fraction =
        if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_and_durations_are_spelt_as_upstream_does() {
        let cases = [(0, "0"), (1, "1n"), (250_000_000, "250m"), (1_234_000, "1234u"), (2_000_000_000, "2")];
        assert_eq!(cases.map(|(value, _)| cores(value)), cases.map(|(_, text)| text.to_owned()));
        let cases =
            [(0, "0"), (1000, "1000"), (153_604 << 10, "153604Ki"), (150 << 20, "150Mi"), (1 << 30, "1Gi")];
        assert_eq!(cases.map(|(value, _)| bytes(value)), cases.map(|(_, text)| text.to_owned()));
        let cases =
            [(0, "0s"), (500, "500ms"), (15_013, "15.013s"), (60_500, "1m0.5s"), (3_600_000, "1h0m0s")];
        assert_eq!(
            cases.map(|(millis, _)| duration(Duration::from_millis(millis))),
            cases.map(|(_, text)| text.to_owned())
        );
    }
}
