//! The manifests that `-f` names: files, directories, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::documents::{self, Document, Fault};
use crate::exit::{Exit, Failure};

/// Which manifests.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FileFlags {
    /// A manifest (YAML or JSON), a directory of manifests, or - for standard input; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Directories with everything below them.
    #[arg(short = 'R', long, requires = "files")]
    pub recursive: bool,
}

/// What a directory's manifests end with.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads all documents, in the order of the command line; a directory's by name.
///
/// # Errors
/// The first file that does not exist or is no manifest.
pub fn read(flags: &FileFlags) -> Result<Vec<Document>, Failure> {
    if flags.files.iter().filter(|path| is_standard_input(path)).count() > 1 {
        return Err(Failure::usage("-f - is there twice, but there is one standard input; give it once"));
    }
    let mut documents = Vec::new();
    for path in &flags.files {
        if is_standard_input(path) {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
            documents.extend(parse("standard input", &bytes)?);
        } else {
            for file in manifests(path, flags.recursive)? {
                let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, &error))?;
                documents.extend(parse(&file.display().to_string(), &bytes)?);
            }
        }
    }
    Ok(documents)
}

/// The documents of one file.
fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Document>, Failure> {
    let malformed = |fault: &dyn std::fmt::Display| Failure::new(Exit::Data, format!("{name}: {fault}"));
    let text =
        std::str::from_utf8(bytes).map_err(|error| malformed(&not_utf8(bytes, error.valid_up_to())))?;
    documents::read(text).map_err(|fault| malformed(&fault))
}

fn not_utf8(bytes: &[u8], valid: usize) -> Fault {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.rsplit('\n').next().unwrap_or_default();
    Fault {
        document: 1,
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        reason: "this is not UTF-8; store the file as UTF-8".to_owned(),
    }
}

/// The file itself, or what there is in the directory.
fn manifests(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            if recursive && !entry.is_symlink() {
                files.extend(manifests(&entry, true)?);
            }
        } else if entry.extension().is_some_and(|ending| ENDINGS.iter().any(|own| ending == *own)) {
            files.push(entry);
        }
    }
    Ok(files)
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let remedy = match path.to_str() {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            "; addresses are not fetched: curl it and give -f -"
        }
        _ => "",
    };
    Failure::new(Exit::NoInput, format!("{} cannot be read: {error}{remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_manifests_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(directory.path().join(name), "a: 1\n").unwrap();
        std::fs::create_dir(directory.path().join("sub.yaml")).unwrap();
        for name in ["b.yml", "a.json", "c.yaml", "d.txt", "sub.yaml/e.yaml"] {
            put(name);
        }
        let names = |recursive| -> Vec<String> {
            let files = manifests(directory.path(), recursive).unwrap().into_iter();
            files.map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(false), ["a.json", "b.yml", "c.yaml"]);
        assert_eq!(names(true), ["a.json", "b.yml", "c.yaml", "e.yaml"]);
    }

    #[test]
    fn what_is_not_utf8_is_found() {
        let failure = parse("x.yaml", b"a: 1\nb: \xff\n").unwrap_err();
        assert_eq!(failure.exit, Exit::Data);
        assert!(
            failure.message.starts_with("x.yaml: document 1, line 2, column 4: this is not UTF-8"),
            "{failure}"
        );
    }
}
