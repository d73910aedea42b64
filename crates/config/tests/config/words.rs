//! A key of the document by itself, as an annotation has it.

use proptest::prelude::*;
use serde_json::{Value, json};
use whichpod_config::{Document, raw};

fn said(key: &str, text: &str) -> Result<Value, Vec<String>> {
    let mut document = Document::default();
    match document.set_text(key, text) {
        Ok(()) => Ok(json!(document)[key].take()),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn lists_need_no_brackets_and_tables_no_braces() {
    let retry = json!({"on": ["5xx", "reset"], "status_codes": [429, 409], "back_off": {"base": "10ms", "max": "1s"}});
    for text in [
        "on=5xx, reset, status_codes=429, 409, back_off.base=10ms, back_off.max=1s",
        " on = 5xx,reset\nstatus_codes=[429, 409]\nback_off={base: 10ms, max: 1s},",
        "{on: [5xx, reset], status_codes: [429, 409], back_off: {base: 10ms, max: 1s}}",
    ] {
        assert_eq!(said("retry", text), Ok(retry.clone()), "{text}");
    }
    let filter = said("access_log", "filter.header.name=x-debug, filter.header.value=a=b, filter.sample=0.5");
    assert_eq!(
        filter.unwrap()["filter"],
        json!({"header": {"name": "x-debug", "value": "a=b"}, "sample": 0.5})
    );
    assert_eq!(
        said("dns", "servers=10.0.0.10, fd00::10").unwrap()["servers"],
        json!(["10.0.0.10:53", "[fd00::10]:53"])
    );
}

#[test]
fn every_slip_is_told_with_its_place() {
    for (key, text, told) in [
        ("retry", "on=5xx, rset", "retry.on[1]: \"rset\": not known here; did you mean reset?"),
        ("retry", "budget.percent=lots", "retry.budget.percent: \"lots\": not a whole number"),
        ("retry", "budget.share=1", "retry.budget.share: unknown key; accepted: percent, min_concurrency"),
        ("retry", "attempts=1, attempts=2", "retry.attempts: given more than once; give it once"),
        ("retry", "budget=1", "retry.budget: 1: a number, not a mapping"),
        ("retry", "attempts: lots", "retry.attempts: \"lots\": not a whole number"),
        ("retry", "{attempts: ", "retry:1:"),
        ("workers", "many", "workers: \"many\": not a whole number"),
        ("worker", "1", "worker: unknown key; did you mean workers?"),
    ] {
        let problems = said(key, text).unwrap_err();
        assert!(problems[0].starts_with(told), "{text}: {problems:?}");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn aliases_do_not_make_much_of_little() {
    let nested: String = ('b'..'j')
        .map(|c| format!("{c}: &{c} [{}]\n", format!("*{}, ", char::from(c as u8 - 1)).repeat(9)))
        .collect();
    let problems = raw::Upstream::read_each(&format!("a: &a [x]\n{nested}")).unwrap_err();
    assert!(problems[0].to_string().contains("too large or too complex"), "{problems:?}");
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(
        key in proptest::sample::select(raw::Upstream::KEYS), text in "([a-z._]{0,6}[=:,{}\\[\\]\" \n-]{0,2}[a-z0-9%\\PC]{0,6}){0,6}",
    ) {
        let _ = raw::Upstream::default().set_text(key, &text);
        let _ = raw::Upstream::read_each(&text);
    }
}
