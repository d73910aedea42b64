//! The certificate that is served, replaced without a restart.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::material::Leaf;

/// What every handshake gets; clones share one certificate. Without one, handshakes fail.
#[derive(Clone, Default)]
pub struct Served {
    current: Arc<ArcSwapOption<Current>>,
}

struct Current {
    leaf: Leaf,
    key: Arc<CertifiedKey>,
}

impl Served {
    /// Serves this certificate from the next handshake on; false if it is the one that is served already.
    ///
    /// # Errors
    /// When the key cannot be read or belongs to another certificate; what was served before stays.
    pub fn set(&self, leaf: &Leaf) -> Result<bool, String> {
        if self.current.load().as_ref().is_some_and(|current| current.leaf == *leaf) {
            return Ok(false);
        }
        let key = PrivateKeyDer::from_pem_slice(leaf.key.0.as_bytes())
            .map_err(|error| format!("the private key cannot be read: {error}"))?;
        let chain = leaf.chain.iter().map(|certificate| certificate.der.clone()).collect();
        let key = CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|error| format!("certificate and private key: {error}"))?;
        self.current.store(Some(Arc::new(Current { leaf: leaf.clone(), key: Arc::new(key) })));
        Ok(true)
    }

    /// The certificate that is served.
    pub fn leaf(&self) -> Option<Leaf> {
        self.current.load().as_ref().map(|current| current.leaf.clone())
    }

    /// When its validity ends, in seconds since 1970; `None` while there is none.
    pub fn not_after(&self) -> Option<i64> {
        self.current.load().as_ref().map(|current| current.leaf.not_after().as_second())
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|current| Arc::clone(&current.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::material::{Key, Lifetimes, Material};
    use jiff::{SignedDuration, Timestamp};

    fn leaf() -> Leaf {
        let lifetimes =
            Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
        Material::fresh(&["localhost".to_owned()], Timestamp::now(), lifetimes)
            .unwrap()
            .leaf()
            .unwrap()
            .clone()
    }

    #[test]
    fn a_broken_key_never_replaces_what_works() {
        let served = Served::default();
        let (good, other) = (leaf(), leaf());
        assert_eq!(served.set(&good), Ok(true));
        assert_eq!(served.set(&good), Ok(false));
        let mismatched = Leaf { key: other.key.clone(), ..good.clone() };
        assert!(served.set(&mismatched).is_err());
        assert!(served.set(&Leaf { key: Key("nonsense".to_owned()), ..good.clone() }).is_err());
        assert_eq!(served.leaf(), Some(good));
        assert_eq!(served.set(&other), Ok(true));
        assert_eq!(served.leaf(), Some(other));
    }
}
