//! Quantities of typed objects as whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Resource name to amount, as `requests`, `limits` and `allocatable` hold it.
pub type Quantities = BTreeMap<String, Quantity>;

/// The quantity in thousandths, rounded up; `None` when the text is no quantity. Saturates at `i64::MAX`.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    skerry_vocabulary::Quantity::parse(&quantity.0).ok().map(skerry_vocabulary::Quantity::milli)
}

/// The quantity in units, rounded up; `None` when the text is no quantity. Saturates at `i64::MAX`.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    skerry_vocabulary::Quantity::parse(&quantity.0).ok().map(skerry_vocabulary::Quantity::value)
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
        for text in ["", "x", "1.2.3", "Mi", "1Zi", "-", "1e"] {
            assert_eq!(milli(&q(text)), None, "{text}");
        }
    }
}
