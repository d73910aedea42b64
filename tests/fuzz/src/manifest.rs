//! Manifests: what nobody changed comes out byte for byte, and what was changed says what it was changed to.

use serde_json::{Value, json};
use whichpod::documents::{Format, Printer, read};

/// Any manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let documents = match read(text) {
        Ok(documents) => documents,
        Err(fault) => {
            assert!(
                fault.document > 0 && fault.line > 0 && fault.column > 0 && !fault.reason.is_empty(),
                "{fault}"
            );
            return;
        }
    };
    let mut untouched = Printer::new(None);
    for document in &documents {
        untouched.put(document, document.value.as_ref()).expect("text as it was");
    }
    let (written, text) = (untouched.finish(), text.strip_prefix('\u{feff}').unwrap_or(text));
    // Only between values of JSON that touch each other is a line end put.
    let without = |text: &str| text.replace('\n', "");
    let touching =
        text.trim_start().starts_with('{') && documents.len() > 1 && without(&written) == without(text);
    assert!(written == text || touching, "{text:?}\nbecame {written:?}");

    let changed: Vec<Option<Value>> = documents
        .iter()
        .map(|document| {
            let mut value = document.value.clone()?;
            value.as_object_mut()?.insert("changed".into(), json!({"a": ["b", "yes"]}));
            Some(value)
        })
        .collect();
    let expected: Vec<Value> = documents
        .iter()
        .zip(&changed)
        .filter_map(|(before, now)| now.as_ref().or(before.value.as_ref()))
        .map(in_go)
        .collect();
    for format in [None, Some(Format::Json), Some(Format::Yaml)] {
        let mut printer = Printer::new(format);
        for (document, changed) in documents.iter().zip(&changed) {
            if printer.put(document, changed.as_ref().or(document.value.as_ref())).is_err() {
                return;
            }
        }
        let written = printer.finish();
        let values: Vec<Value> = match format {
            Some(Format::Json) => serde_json::Deserializer::from_str(&written)
                .into_iter::<Value>()
                .map(|value| in_go(&value.unwrap_or_else(|error| panic!("{error}\n{written}"))))
                .collect(),
            _ => {
                let again = read(&written).unwrap_or_else(|fault| panic!("{fault}\n{written}"));
                again.iter().filter_map(|document| document.value.as_ref()).map(in_go).collect()
            }
        };
        assert_eq!(values, expected, "{format:?}\n{written}");
    }
}

/// What a value is to kubectl, whose JSON writes a whole number without a fraction.
fn in_go(value: &Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Array(items) => items.iter().map(in_go).collect(),
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), in_go(value))).collect(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float)
                if float.fract() == 0.0
                    && float.abs() <= EXACT
                    && !(float == 0.0 && float.is_sign_negative()) =>
            {
                format!("{float:.0}").parse::<i64>().map_or_else(|_| value.clone(), Value::from)
            }
            // The last digit of a number may get lost in reading JSON.
            Some(float) => Value::from(format!("{float:.12e}")),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}
