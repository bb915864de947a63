//! Kubernetes quantities (`100m`, `1.5`, `200Mi`, `1e3`) as integers.

/// The value in thousandths, rounded up; `None` for what is no quantity.
pub fn millis(text: &str) -> Option<i128> {
    let text = text.trim();
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (mul, div) = factor(suffix)?;
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['-', '+']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More than twelve digits behind the point are below any unit that is used.
    let fraction = &fraction[..fraction.len().min(12)];
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(mul)?.checked_mul(1000)?;
    let divisor = scale.checked_mul(div)?;
    let value = scaled.checked_add(divisor - 1)? / divisor;
    Some(if negative { -value } else { value })
}

/// The value in whole units (bytes, cores), rounded up.
pub fn units(text: &str) -> Option<i128> {
    millis(text).map(|millis| (millis + 999).div_euclid(1000))
}

/// `(multiplier, divisor)` of a suffix.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((1000_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10_i128.checked_pow(power.unsigned_abs().min(30))?;
            Some(if power < 0 { (1, ten) } else { (ten, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_spelling_are_read() {
        let cases = [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            ("0.1", 100),
            (".5", 500),
            ("2k", 2_000_000),
            ("200Mi", 200 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
            ("-1", -1000),
        ];
        for (text, expected) in cases {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        assert_eq!(units("200Mi"), Some(200 << 20));
        assert_eq!(units("1m"), Some(1));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "abc", "1x", "1.2.3", "Mi", "1e", "99999999999999999999999999999999999Ei"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }
}
