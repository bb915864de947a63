//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Resource name to amount, as `requests`, `limits` and `allocatable` hold it.
pub type Quantities = BTreeMap<String, Quantity>;

/// The quantity in thousandths, rounded up; `None` when the text is no quantity. Saturates at `i64::MAX`.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1_000)
}

/// The quantity in units, rounded up; `None` when the text is no quantity. Saturates at `i64::MAX`.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// Longest run of digits that a quantity may have here; more cannot be told apart in 64 bits anyway.
const MAX_DIGITS: usize = 40;

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > MAX_DIGITS {
        return None;
    }
    let (multiplier, divisor) = suffix_ratio(suffix)?;
    // digits × 10^-len(fraction) × multiplier / divisor × scale, all in integers so that nothing is lost.
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let numerator = digits.checked_mul(multiplier).and_then(|n| n.checked_mul(scale));
    let denominator = 10i128.checked_pow(fraction.len() as u32)?.checked_mul(divisor)?;
    let value = match numerator {
        Some(n) => (n + denominator - 1) / denominator,
        None => i128::from(i64::MAX),
    };
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

fn suffix_ratio(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs().min(30))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn quantities_read_as_kubernetes_defines_them() {
        for (text, expected_milli, expected_whole) in [
            ("100m", 100, 1),
            ("1", 1_000, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("200Mi", 209_715_200_000, 209_715_200),
            ("2e3", 2_000_000, 2_000),
            ("1E", i64::MAX, 1_000_000_000_000_000_000),
            ("12E6", 12_000_000_000, 12_000_000),
            ("1n", 1, 1),
            ("-1", -1_000, -1),
            ("0", 0, 0),
        ] {
            assert_eq!(milli(&q(text)), Some(expected_milli), "{text}");
            assert_eq!(whole(&q(text)), Some(expected_whole), "{text}");
        }
    }

    #[test]
    fn garbage_is_no_quantity() {
        for text in ["", "x", "1.2.3", "Mi", "1Zi", "-", "1e", "99999999999999999999999999999999999999999999"]
        {
            assert_eq!(milli(&q(text)), None, "{text}");
        }
    }
}
