//! Times as the API writes them (RFC 3339, UTC).

use jiff::Timestamp;

/// Of a `Time`: `2026-01-02T03:04:05Z`.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Of a `MicroTime`, of which the API demands six digits: `2026-01-02T03:04:05.000006Z`.
pub fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc_and_not_rounded_up() {
        let at: Timestamp = "2026-01-02T03:04:05.9999999+02:00".parse().unwrap();
        assert_eq!((&*seconds(at), &*micros(at)), ("2026-01-02T01:04:05Z", "2026-01-02T01:04:05.999999Z"));
    }
}
