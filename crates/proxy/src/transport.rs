//! What bytes go over to a pod: TCP, or TLS on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use whichpod_runtime::tls::Client;

/// A connected socket.
pub enum Transport {
    /// Clear text.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How an upstream's pods are spoken to over TLS.
pub struct Tls {
    /// What the files say.
    pub client: Arc<Client>,
    /// Whom the certificate must name.
    pub name: ServerName<'static>,
}

impl Tls {
    /// Agrees on TLS.
    ///
    /// # Errors
    /// Why one of the two sides refuses the other.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<Transport> {
        self.connect_by(self.client.config(), stream).await
    }

    /// Agrees on TLS and on this protocol (ALPN), whatever requests use: for health checks.
    ///
    /// # Errors
    /// Why one of the two sides refuses the other.
    pub async fn connect_for(&self, protocol: &[u8], stream: TcpStream) -> io::Result<Transport> {
        let mut config = rustls::ClientConfig::clone(&self.client.config());
        config.alpn_protocols = vec![protocol.to_vec()];
        self.connect_by(Arc::new(config), stream).await
    }

    async fn connect_by(
        &self,
        config: Arc<rustls::ClientConfig>,
        stream: TcpStream,
    ) -> io::Result<Transport> {
        let stream = TlsConnector::from(config).connect(self.name.clone(), stream).await?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

impl Transport {
    /// Lets the connection end with a reset (RST) instead of an orderly end (FIN).
    pub fn reset(&self) {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // It can fail only if the connection is gone already.
        let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Does the same to either.
macro_rules! either {
    ($transport:expr, $stream:ident => $what:expr) => {
        match $transport.get_mut() {
            Transport::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $what
            }
            Transport::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $what
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        // Both are.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
