//! Certificates from files, as cert-manager or an operator mounts them.

use std::path::{Path, PathBuf};

use super::material::{Leaf, Unusable};

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain, the server's own certificate first (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

impl Files {
    /// Reads both. They are small, and a mounted Secret is in memory, so this may be done on any thread.
    ///
    /// # Errors
    /// Which file cannot be used and why.
    pub fn read(&self) -> Result<Leaf, Unusable> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let name = |path: &Path| path.display().to_string();
        Leaf::parse((&name(&self.certificate), &certificate), (&name(&self.key), &key))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    std::fs::read(path)
        .map_err(|error| Unusable::Unreadable { what: path.display().to_string(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::material::{Lifetimes, Material};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn a_mounted_certificate_is_read_and_a_missing_file_is_named() {
        let lifetimes =
            Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
        let material = Material::fresh(&["localhost".to_owned()], Timestamp::now(), lifetimes).unwrap();
        let data = material.data();
        let folder = tempfile::tempdir().unwrap();
        let files = Files { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let error = files.read().unwrap_err().to_string();
        assert!(error.contains("tls.crt cannot be read: No such file"), "{error}");
        std::fs::write(&files.certificate, &data["tls.crt"].0).unwrap();
        std::fs::write(&files.key, &data["tls.key"].0).unwrap();
        assert_eq!(files.read().unwrap(), *material.leaf().unwrap());
        std::fs::write(&files.certificate, "nothing").unwrap();
        let error = files.read().unwrap_err().to_string();
        assert!(error.contains("tls.crt cannot be read: it holds no certificate"), "{error}");
    }
}
