//! The server's name in a TLS ClientHello that passes by (RFC 6066 §3): the bytes are looked at, and not held up.

use std::sync::Arc;

use rustls::server::Acceptor;

/// What a TLS record with a handshake begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Looks for a name in a client's first bytes.
#[derive(Default)]
pub enum Sni {
    /// Nothing has come by yet.
    #[default]
    Waiting,
    /// A ClientHello is coming, perhaps in several pieces.
    Reading(Box<Acceptor>),
    /// There is no more to be learned.
    Done,
}

impl Sni {
    /// Looks at the client's next bytes; the name, once it is there.
    pub fn look(&mut self, mut bytes: &[u8]) -> Option<Arc<str>> {
        if matches!(self, Self::Waiting) {
            *self = match bytes.first() {
                Some(&HANDSHAKE) => Self::Reading(Box::default()),
                _ => Self::Done,
            };
        }
        let Self::Reading(acceptor) = self else { return None };
        while !bytes.is_empty() && acceptor.read_tls(&mut bytes).is_ok_and(|count| count > 0) {
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(Arc::from);
                    *self = Self::Done;
                    return name;
                }
                // It is the server's to complain.
                Err(_) => {
                    *self = Self::Done;
                    return None;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::crypto::ring::default_provider;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn look(pieces: &[&[u8]]) -> Option<Arc<str>> {
        let mut sni = Sni::default();
        pieces.iter().find_map(|piece| sni.look(piece))
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut() {
        let bytes = hello("db.example.org");
        for cut in 0..=bytes.len() {
            let (one, other) = bytes.split_at(cut);
            let pieces: Vec<_> = [one, other].into_iter().filter(|piece| !piece.is_empty()).collect();
            assert_eq!(look(&pieces).as_deref(), Some("db.example.org"), "{cut}");
        }
    }

    #[test]
    fn who_asks_for_an_address_names_nobody() {
        assert_eq!(look(&[&hello("127.0.0.1"), b"more"]), None);
        assert_eq!(look(&[b"220 mail", &hello("a.example.org")]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), whole in any::<bool>(), at: prop::sample::Index, byte: u8) {
            if whole {
                bytes = hello("a.example.org");
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = look(&[&bytes]);
        }
    }
}
