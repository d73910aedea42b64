//! Kubernetes quantities (`50m`, `64Mi`, `1e3`): the API server rewrites them (`1000m` becomes `1`), so they are
//! compared by value. See "Resource units in Kubernetes" and `apimachinery/pkg/api/resource`.

/// A quantity in billionths, rounded up as the API server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(pub(crate) i128);

const NANOS: i128 = 1_000_000_000;

impl Quantity {
    /// `None` if it is no quantity, or one beyond all measure.
    pub(crate) fn parse(text: &str) -> Option<Quantity> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
            return None;
        }
        let (factor, divisor) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(divisor)?;
        let scaled = digits.checked_mul(factor)?;
        let nanos = scaled / divisor + i128::from(scaled % divisor != 0);
        Some(Quantity(if negative { -nanos } else { nanos }))
    }
}

/// Whether two texts are the same quantity.
pub(crate) fn equal(left: &str, right: &str) -> bool {
    left == right || matches!((Quantity::parse(left), Quantity::parse(right)), (Some(l), Some(r)) if l == r)
}

/// By how much to multiply and divide to get billionths.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |power: u32| Some((10_i128.pow(power), 1));
    let binary = |power: u32| Some((NANOS << power, 1));
    match suffix {
        "n" => decimal(0),
        "u" => decimal(3),
        "m" => decimal(6),
        "" => decimal(9),
        "k" => decimal(12),
        "M" => decimal(15),
        "G" => decimal(18),
        "T" => decimal(21),
        "P" => decimal(24),
        "E" => decimal(27),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = exponent.checked_add(9)?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            Some(if power < 0 { (1, factor) } else { (factor, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_api_server_rewrites_is_still_the_same_quantity() {
        for (written, stored) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("65536Ki", "64Mi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("1E", "1000P"),
            ("+2", "2"),
            (".5", "0.5"),
            ("100e-2", "1"),
        ] {
            assert!(equal(written, stored), "{written} is {stored}");
        }
        assert!(!equal("64Mi", "64M"));
        assert!(Quantity::parse("50m") < Quantity::parse("0.1"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "Mi",
            "1 Mi",
            "1mi",
            "1.2.3",
            "1e",
            "1e99",
            "ten",
            "999999999999999999999999999999E",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn thousandths_and_whole_numbers_agree(n in 0_u64..1_000_000_000) {
            let thousandths = format!("{}m", n * 1000);
            prop_assert!(equal(&thousandths, &n.to_string()));
        }
    }
}
