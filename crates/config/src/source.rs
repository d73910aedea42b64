//! The document's text: where it comes from, and what YAML or JSON makes of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Fault, Problems};
use crate::names;

/// The largest document that is read, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// The most values that are read.
const MOST_NODES: usize = 250_000;

/// Where the document comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    Inline(OsString),
}

impl Source {
    /// The first of `--config`, `WHICHPOD_CONFIG` and `WHICHPOD_CONFIG_FILE`; a warning names what is not read.
    pub fn choose(
        flag: Option<PathBuf>,
        inline: Option<OsString>,
        variable: Option<PathBuf>,
        warnings: &mut Vec<String>,
    ) -> Option<Self> {
        let flag_name = format!("--{}", names::flag::CONFIG_FILE);
        let mut given = [
            flag.map(|path| (flag_name.as_str(), Self::File(path))),
            inline.filter(|text| !text.is_empty()).map(|text| (names::INLINE_DOCUMENT, Self::Inline(text))),
            variable.map(|path| (names::variable::CONFIG_FILE, Self::File(path))),
        ]
        .into_iter()
        .flatten();
        let (read, source) = given.next()?;
        warnings.extend(given.map(|(name, _)| format!("{name} is not read, since {read} is given")));
        Some(source)
    }

    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Inline(_) => names::INLINE_DOCUMENT.to_owned(),
        }
    }

    /// The document as a generic value; `None` and a problem if it cannot be had.
    pub fn read(self, problems: &mut Problems) -> Option<Value> {
        let name = self.name();
        let text = match self {
            Self::File(path) => read_file(&path),
            Self::Inline(text) => text.into_string().map_err(|_| not_utf8()),
        };
        let value = text.map_err(|fault| (name.clone(), fault)).and_then(|text| parse(&text, &name));
        value.map_err(|(path, fault)| problems.at(path, fault)).ok()
    }
}

fn not_utf8() -> Fault {
    Fault::new("not UTF-8", "write it in UTF-8")
}

fn read_file(path: &Path) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "check the path, and that it is mounted",
            io::ErrorKind::PermissionDenied => "make it readable for the user that the sidecar runs as",
            _ => "name a file that can be read",
        };
        Fault::new(format!("cannot be read: {error}"), remedy)
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Fault::new("larger than 4 MiB", "name a configuration file"));
    }
    String::from_utf8(bytes).map_err(|_| not_utf8())
}

/// Reads YAML, of which JSON is a part (but for [`escaped`]); an error has line and column.
pub(crate) fn parse(text: &str, name: &str) -> Result<Value, (String, Fault)> {
    // `on`, `off`, `yes` and `no` are text, as in YAML 1.2.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        // Aliases may not make much of little.
        budget: serde_saphyr::budget! { max_nodes: MOST_NODES.min(text.len() + 1_000) },
    };
    let text = if serde_json::from_str::<IgnoredAny>(text).is_ok() { &escaped(text) } else { text };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let path = match error.location() {
            Some(at) if at.line() > 0 => format!("{name}:{}:{}", at.line(), at.column()),
            _ => name.to_owned(),
        };
        let told = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        // The path says where already.
        let reason = told.split(" at line ").next().unwrap_or_default();
        (path, Fault::new(format!("not readable as YAML or JSON: {reason}"), "mend the document there"))
    })
}

/// JSON with an escape for each character that JSON may hold as it is and YAML may not (YAML 1.2.2 §5.1).
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => text.push(c),
        }
    }
    text
}
