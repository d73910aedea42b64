//! TLS towards others: settings from files, read again when they change, so that a renewed certificate needs no restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How often files are looked at again; a mounted Secret itself is up to a minute late.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a client of TLS is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientSettings {
    /// Authorities that are trusted (PEM); the system's if none is given.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate and its private key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Protocols that are offered (ALPN), the favourite first.
    pub alpn: Vec<String>,
    /// Trusts whoever answers.
    pub insecure: bool,
}

/// Why TLS cannot be set up: the file, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system's authorities cannot be found.
    #[error("this system has no certificate authorities ({0}): name a file of them, or mount one")]
    NoSystemAuthorities(String),
}

/// A client's side of TLS, as its files say it now.
pub struct Client {
    settings: ClientSettings,
    current: ArcSwap<Current>,
}

struct Current {
    files: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn load(settings: ClientSettings) -> Result<Self, TlsError> {
        let current = read(&settings)?;
        Ok(Self { settings, current: ArcSwap::from_pointee(current) })
    }

    /// What the next connection is made with.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Reads the files again; true if they have changed.
    ///
    /// # Errors
    /// What is wrong with one of them; what was read before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let next = read(&self.settings)?;
        let changed = next.files != self.current.load().files;
        if changed {
            self.current.store(Arc::new(next));
        }
        Ok(changed)
    }

    /// Reads the files again whenever they change, without end; says so once, and what is wrong once.
    pub async fn follow(self: Arc<Self>) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            match self.reload() {
                Ok(changed) => {
                    complaint = None;
                    if changed {
                        tracing::info!("TLS: new certificates are in use");
                    }
                }
                Err(error) if complaint.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::warn!("TLS: {error}; what was read before stays in use");
                    complaint = Some(error);
                }
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn read(settings: &ClientSettings) -> Result<Current, TlsError> {
    let provider = Arc::new(default_provider());
    let mut files = Vec::new();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    // ring has both versions: this cannot fail.
    let versions = builder.with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| TlsError::NoSystemAuthorities(error.to_string()))?;
    let builder = match (&settings.authorities, settings.insecure) {
        (_, true) => builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnybody(provider))),
        (Some(path), false) => {
            let pem = read_file(path, &mut files)?;
            let roots = certificates(&pem).and_then(roots);
            let roots = roots.map_err(|reason| TlsError::File { path: path.clone(), reason })?;
            builder.with_root_certificates(roots)
        }
        (None, false) => builder.with_root_certificates(system_roots()?),
    };
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let fault = |path: &Path, reason: String| TlsError::File { path: path.to_owned(), reason };
            let chain = certificates(&read_file(certificate, &mut files)?)
                .map_err(|reason| fault(certificate, reason))?;
            let private = PrivateKeyDer::from_pem_slice(&read_file(key, &mut files)?)
                .map_err(|error| fault(key, format!("no private key: {error}")))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| fault(key, format!("not the key of {}: {error}", certificate.display())))?
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Current { files, config: Arc::new(config) })
}

fn read_file(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<Vec<u8>, TlsError> {
    let bytes = std::fs::read(path)
        .map_err(|error| TlsError::File { path: path.to_owned(), reason: error.to_string() })?;
    files.push(bytes.clone());
    Ok(bytes)
}

/// The certificates in a PEM text, of which there is one at least.
///
/// # Errors
/// What is wrong with the text.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate (PEM)".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// Trust in these authorities and no others.
///
/// # Errors
/// What is wrong with one of them.
pub fn roots(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        let reason =
            if reasons.is_empty() { "none in the usual places".to_owned() } else { reasons.join(", ") };
        return Err(TlsError::NoSystemAuthorities(reason));
    }
    Ok(roots)
}

/// Accepts every certificate; that the server has its key is still checked.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(subject: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![subject.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca.pem", "tls.crt", "tls.key"].map(|name| folder.path().join(name));
        let write = |(certificate, private): &(String, String)| {
            std::fs::write(&ca, certificate).unwrap();
            std::fs::write(&cert, certificate).unwrap();
            std::fs::write(&key, private).unwrap();
        };
        let (one, other) = (pem("one"), pem("other"));
        write(&one);
        let settings = ClientSettings {
            authorities: Some(ca.clone()),
            identity: Some((cert.clone(), key.clone())),
            ..ClientSettings::default()
        };
        let client = Client::load(settings).unwrap();
        let first = client.config();
        assert_eq!(client.reload(), Ok(false));
        write(&other);
        assert_eq!(client.reload(), Ok(true));
        assert!(!Arc::ptr_eq(&first, &client.config()));

        std::fs::write(&key, &one.1).unwrap();
        let error = client.reload().unwrap_err().to_string();
        assert!(error.contains("tls.key: not the key of"), "{error}");
        std::fs::write(&cert, "nonsense").unwrap();
        let error = client.reload().unwrap_err().to_string();
        assert!(error.contains("tls.crt: it holds no certificate"), "{error}");
        std::fs::remove_file(&ca).unwrap();
        let error = client.reload().unwrap_err().to_string();
        assert!(error.contains("ca.pem: No such file"), "{error}");
        write(&other);
        assert_eq!(client.reload(), Ok(false), "what was read before stays in use");
    }
}
