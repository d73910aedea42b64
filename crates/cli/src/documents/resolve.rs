//! What an unquoted scalar means to kubectl: YAML 1.1 with Go's numbers. `yes` is true, `0644` is 420, `12e400` is text.

use serde_json::{Number, Value};

/// The value of an unquoted scalar.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    }
}

/// Whether an unquoted scalar is one of the floating-point values that JSON does not have.
pub(super) fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let digits = text.replace('_', "");
    integer(&digits).or_else(|| float(&digits))
}

fn integer(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (radix, digits) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &unsigned[2..]),
        [b'0', b'o' | b'O', ..] => (8, &unsigned[2..]),
        [b'0', b'b' | b'B', ..] => (2, &unsigned[2..]),
        [b'0', _, ..] => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if text.starts_with('-') {
        return i64::try_from(-i128::from(magnitude)).ok().map(Number::from);
    }
    Some(Number::from(magnitude))
}

fn float(text: &str) -> Option<Number> {
    // Rust would also take `+inf`.
    if !text.chars().all(|char| char.is_ascii_digit() || "+-.eE".contains(char)) {
        return None;
    }
    let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    whole(value).or_else(|| Number::from_f64(value))
}

/// A whole number is written without a fraction, as Go's JSON does.
fn whole(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = value.fract() == 0.0 && value.abs() <= EXACT && (value != 0.0 || value.is_sign_positive());
    whole.then(|| format!("{value:.0}").parse::<i64>().ok().map(Number::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unquoted_scalars_are_read_as_kubectl_reads_them() {
        // Each value is what sigs.k8s.io/yaml 1.6 makes of the text.
        for (text, value) in [
            ("0644", json!(420)),
            ("08", json!(8)),
            ("1_000", json!(1000)),
            ("1__0", json!(10)),
            ("1_", json!(1)),
            ("0777_0", json!(4088)),
            ("1e3", json!(1000)),
            ("0x1F", json!(31)),
            ("0x_1F", json!(31)),
            ("0b11", json!(3)),
            ("0B11", json!(3)),
            ("-0b11", json!(-3)),
            ("0o17", json!(15)),
            ("-0o7", json!(-7)),
            ("+1", json!(1)),
            ("00", json!(0)),
            ("123456789012345678", json!(123_456_789_012_345_678_u64)),
            ("9223372036854775808", json!(9_223_372_036_854_775_808_u64)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
            (".5", json!(0.5)),
            ("-.5", json!(-0.5)),
            ("+.5e1", json!(5)),
            ("0.", json!(0)),
            ("1.", json!(1)),
            ("5.e2", json!(500)),
            ("1.5_0", json!(1.5)),
            ("-0.0", json!(-0.0)),
            ("1e21", json!(1e21)),
            ("1e-7", json!(1e-7)),
            ("y", json!(true)),
            ("Off", json!(false)),
            ("~", json!(null)),
            ("Null", json!(null)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_something_else_is_text() {
        for text in [
            "nULL",
            "tRUE",
            "oN",
            "1e400",
            ".1e400",
            "12:30:45",
            "2001-01-01",
            "0x",
            "0b2",
            "0o8",
            "+",
            "-",
            "--1",
            "+-1",
            "0x-1",
            "_1",
            "0x1.8p1",
            "+inf",
            "-nan",
            "-.inf1",
            ".",
            "...",
            "=",
            "1.2.3",
            "10.0.0.1",
            "50m",
            "1Gi",
            "v1",
        ] {
            assert_eq!(plain(text), json!(text));
        }
    }

    #[test]
    fn infinity_is_known_in_all_its_spellings() {
        for text in [".inf", "-.Inf", "+.INF", ".NaN"] {
            assert!(is_not_finite(text), "{text}");
        }
        for text in ["inf", "-.nan", "nan", ".iNF", "..inf"] {
            assert!(!is_not_finite(text), "{text}");
        }
    }
}
