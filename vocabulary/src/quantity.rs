//! Kubernetes' quantities: `100m`, `1.5Gi`, `1e3`; exact, canonical form as upstream's.

/// Units below one: everything is counted in billionths.
const NANO: i128 = 1_000_000_000;

/// An amount, exact to a billionth, with the family of suffixes it was written in.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// n u m k M G T P E
    Decimal,
    /// Ki Mi Gi Ti Pi Ei
    Binary,
    /// e3
    Exponent,
}

/// Why a text is no quantity, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is no number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// It looks like one, and its suffix is none of Kubernetes'.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Reads a quantity. What is too big for upstream (2^63 - 1) is capped there; what is finer than a
    /// billionth is rounded up.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        let (family, base, power) = suffix_of(suffix)?;
        let nano = scale(whole, fraction, base, power);
        Ok(Quantity { nano: if negative { -nano } else { nano }, family })
    }

    /// Billionths.
    pub fn nano(self) -> i128 {
        self.nano
    }

    /// Thousandths, rounded up (CPU's "millicores"). Saturates.
    pub fn milli(self) -> i64 {
        clamp(self.wide_milli())
    }

    /// Thousandths, rounded up, of any quantity: of bytes they may be more than 64 bits hold.
    pub fn wide_milli(self) -> i128 {
        ceil(self.nano, NANO / 1000)
    }

    /// Whole units, rounded up (bytes). Saturates.
    pub fn value(self) -> i64 {
        clamp(ceil(self.nano, NANO))
    }

    /// The one spelling upstream prints: `1000m` → `1`, `1024Mi` → `1Gi`, `0.5` → `500m`.
    pub fn canonical(self) -> String {
        if self.nano == 0 {
            return "0".to_owned();
        }
        if self.family == Family::Binary && self.nano.abs() >= 1024 * NANO {
            let mut value = ceil(self.nano, NANO);
            let mut at = 0;
            while value % 1024 == 0 && at + 1 < BINARY.len() {
                value /= 1024;
                at += 1;
            }
            return format!("{value}{}", BINARY[at]);
        }
        let (mut value, mut at) = (self.nano, 0);
        while value % 1000 == 0 && at + 1 < DECIMAL.len() {
            value /= 1000;
            at += 1;
        }
        if self.family == Family::Exponent {
            let exponent = at as i32 * 3 - 9;
            return if exponent == 0 { value.to_string() } else { format!("{value}e{exponent}") };
        }
        format!("{value}{}", DECIMAL[at])
    }
}

const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The family, the base and the power of a suffix.
fn suffix_of(suffix: &str) -> Result<(Family, i128, i32), QuantityError> {
    if let Some(at) = BINARY.iter().skip(1).position(|known| *known == suffix) {
        return Ok((Family::Binary, 1024, at as i32 + 1));
    }
    if let Some(at) = DECIMAL.iter().position(|known| *known == suffix) {
        return Ok((Family::Decimal, 10, at as i32 * 3 - 9));
    }
    if !suffix.bytes().all(|byte| b"eEinumkKMGTP+-0123456789".contains(&byte)) {
        return Err(QuantityError::Format);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let power: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((Family::Exponent, 10, power))
}

/// `whole.fraction × base^power` in billionths, rounded up, capped.
fn scale(whole: &str, fraction: &str, base: i128, power: i32) -> i128 {
    const CAP: i128 = i64::MAX as i128 * NANO;
    /// More digits than this change nothing that is kept.
    const DIGITS: usize = 30;
    let fraction = fraction.trim_end_matches('0');
    let kept = &fraction[..fraction.len().min(18)];
    let mut inexact = kept.len() < fraction.len();
    let digits = format!("{}{kept}", whole.trim_start_matches('0'));
    if digits.len() > DIGITS {
        return CAP;
    }
    let mantissa: i128 = digits.parse().unwrap_or(0);
    if mantissa == 0 {
        return i128::from(inexact);
    }
    // Tens to multiply by (or divide, when negative) after the binary factor.
    let mut tens = 9 - kept.len() as i32;
    let mut value = mantissa;
    if base == 10 {
        tens = tens.saturating_add(power);
    } else {
        let Some(scaled) = 1024_i128.checked_pow(power as u32).and_then(|factor| value.checked_mul(factor))
        else {
            return CAP;
        };
        value = scaled;
    }
    while tens > 0 {
        let Some(scaled) = value.checked_mul(10).filter(|scaled| *scaled <= CAP) else { return CAP };
        value = scaled;
        tens -= 1;
    }
    while tens < 0 && value > 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        tens += 1;
    }
    (value + i128::from(inexact)).min(CAP)
}

fn ceil(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// In the family of the first; what is too big for upstream is capped.
impl std::ops::Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let cap = i128::from(i64::MAX) * NANO;
        Quantity { nano: (self.nano + other.nano).clamp(-cap, cap), family: self.family }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> std::cmp::Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_become_upstreams_canonical_one() {
        let cases = [
            ("0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1000", "1k"),
            ("1200", "1200"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("512", "512"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("1e-3", "1e-3"),
            ("0.0000000001", "1n"),
            ("99999999999999999999999999999999999", "9223372036854775807"),
        ];
        for (text, shown) in cases {
            assert_eq!(Quantity::parse(text).unwrap().canonical(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_in_upstreams_words() {
        for text in ["", "a", "1 Gi", "1x", "--1", "1.2.3", ".", "Gi", "1GI"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity::parse("1ki"), Err(QuantityError::Suffix));
    }

    #[test]
    fn quantities_of_every_spelling_are_worth_what_they_say() {
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
            ("1n", 1),
            ("-1", -1000),
        ];
        for (text, milli) in cases {
            assert_eq!(Quantity::parse(text).unwrap().wide_milli(), milli, "{text}");
        }
        for text in ["abc", "1.2.3", "Mi", "1e", "-"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        let value = |text| Quantity::parse(text).unwrap().value();
        assert_eq!((value("200Mi"), value("1m")), (200 << 20, 1));
    }

    #[test]
    fn milli_and_value_round_up() {
        assert_eq!(Quantity::parse("1n").unwrap().milli(), 1);
        assert_eq!(Quantity::parse("1.5").unwrap().value(), 2);
        assert_eq!(Quantity::parse("-1.5").unwrap().value(), -1);
        assert_eq!(Quantity::parse("250Mi").unwrap().value(), 250 << 20);
        let most = Quantity::parse("1E").unwrap();
        assert_eq!((most.milli(), most.wide_milli()), (i64::MAX, 1_000_000_000_000_000_000_000));
    }

    #[test]
    fn sums_are_exact_in_the_spelling_of_the_first() {
        let sum = |a: &str, b: &str| (Quantity::parse(a).unwrap() + Quantity::parse(b).unwrap()).canonical();
        assert_eq!(sum("999m", "1m"), "1");
        assert_eq!(sum("512Ki", "524288"), "1Mi");
        assert_eq!(sum("8E", "8E"), "9223372036854775807");
    }

    proptest! {
        #[test]
        fn canonical_form_means_the_same_and_stays(whole in 0_u64..1_000_000_000, milli in 0_u32..1000, at in 0_usize..16) {
            let suffix = DECIMAL.iter().chain(&BINARY[1..]).nth(at).unwrap();
            let quantity = Quantity::parse(&format!("{whole}.{milli:03}{suffix}")).unwrap();
            let again = Quantity::parse(&quantity.canonical()).unwrap();
            if quantity.family != Family::Binary {
                prop_assert_eq!(quantity, again);
            }
            prop_assert_eq!(again.canonical(), quantity.canonical());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = Quantity::parse(&text);
        }
    }
}
