//! TLS in front of another backend: certificates that are made for the test, and an end of TLS that keeps what it was told.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::sync::lock;
use crate::tasks::{Tasks, accepted};

/// An authority of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key, as PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// An authority with this name.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> io::Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(parameters, key).map_err(io::Error::other)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for this name or address.
    ///
    /// # Errors
    /// When no key can be made, or the name is none.
    pub fn issue(&self, name: &str) -> io::Result<Certificate> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let parameters = CertificateParams::new(vec![name.to_owned()]).map_err(io::Error::other)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Certificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// What a client said in its handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// SNI.
    pub server_name: Option<String>,
    /// The protocol that was agreed upon (ALPN).
    pub protocol: Option<String>,
    /// It has shown a certificate.
    pub certificate: bool,
}

/// Ends TLS, and passes everything on to a backend in clear text; dropping it closes its port and its connections.
pub struct TlsFront {
    address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    _tasks: Tasks,
}

impl TlsFront {
    /// In front of this backend, with this certificate; clients must show one of the other authority, where there is one.
    ///
    /// # Errors
    /// When the address cannot be bound, or the certificate cannot be used.
    pub async fn start(
        address: SocketAddr,
        backend: SocketAddr,
        certificate: &Certificate,
        clients: Option<&Authority>,
    ) -> io::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(server(certificate, clients).map_err(io::Error::other)?));
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let handshakes = Arc::<Mutex<Vec<Handshake>>>::default();
        let seen = Arc::clone(&handshakes);
        let tasks = Tasks::start(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = accepted(&listener, &mut connections).await {
                connections.spawn(serve(stream, backend, acceptor.clone(), Arc::clone(&seen)));
            }
        });
        Ok(Self { address, handshakes, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the clients said whose handshakes are complete.
    pub fn handshakes(&self) -> Vec<Handshake> {
        lock(&self.handshakes).clone()
    }
}

async fn serve(
    stream: TcpStream,
    backend: SocketAddr,
    acceptor: TlsAcceptor,
    seen: Arc<Mutex<Vec<Handshake>>>,
) {
    // A client that does not like the certificate leaves; its side has the assertions.
    let Ok(mut client) = acceptor.accept(stream).await else { return };
    let (_, session) = client.get_ref();
    let handshake = Handshake {
        server_name: session.server_name().map(str::to_owned),
        protocol: session.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
        certificate: session.peer_certificates().is_some(),
    };
    lock(&seen).push(handshake);
    if let Ok(mut backend) = TcpStream::connect(backend).await {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
    }
}

fn server(
    certificate: &Certificate,
    clients: Option<&Authority>,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain =
        CertificateDer::pem_slice_iter(certificate.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"postgresql".to_vec()];
    Ok(config)
}
