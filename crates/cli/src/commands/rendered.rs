//! What becomes of documents, and how it is printed. Pure.

use serde_json::{Value, json};
use whichpod_injection::Item;

use crate::documents::{Document, Format, Printer, pretty};
use crate::exit::Failure;

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Every document as JSON.
    Json,
    /// Every document as YAML.
    Yaml,
    /// Not the documents but what changes in them: a JSON Patch, or one line for each workload if there are several.
    Patch,
}

/// Documents with what became of them.
pub struct Rendered {
    /// The documents as they are now.
    pub printer: Printer,
    /// What became of each workload.
    pub items: Vec<Item>,
    output: Option<Output>,
}

/// Changes every document.
///
/// # Errors
/// If the result cannot be written.
pub fn render(
    documents: &[Document],
    output: Option<Output>,
    change: &dyn Fn(&Value) -> (Value, Vec<Item>),
) -> Result<Rendered, Failure> {
    let format = match output {
        Some(Output::Json) => Some(Format::Json),
        Some(Output::Yaml) => Some(Format::Yaml),
        Some(Output::Patch) | None => None,
    };
    let mut printer = Printer::new(format);
    let mut items = Vec::new();
    for document in documents {
        let changed = document.value.as_ref().map(|value| {
            let (value, of_document) = change(value);
            items.extend(of_document);
            value
        });
        printer.put(document, changed.as_ref())?;
    }
    Ok(Rendered { printer, items, output })
}

impl Rendered {
    /// What is to be printed.
    pub fn text(self) -> String {
        if self.output == Some(Output::Patch) { patches(&self.items) } else { self.printer.finish() }
    }
}

/// The patch of the one workload, or one line of JSON for each.
pub fn patches(items: &[Item]) -> String {
    if let [item] = items {
        return pretty(&json!(item.outcome.patch));
    }
    let line = |item: &Item| {
        let Item { kind, namespace, name, outcome } = item;
        json!({"kind": kind, "namespace": namespace, "name": name, "patch": outcome.patch}).to_string() + "\n"
    };
    items.iter().map(line).collect()
}
