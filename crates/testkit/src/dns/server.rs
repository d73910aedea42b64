//! The sockets: UDP and TCP on one port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::answer::{Reply, Transport, reply};
use super::zone::Zone;
use crate::tasks::{Tasks, accepted, ended};

/// A DNS server; it ends when it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zone: Zone,
    _tasks: Tasks,
}

/// How often to look for a port that is free for both UDP and TCP.
const ATTEMPTS: usize = 32;
/// After an error on a socket, so that a lasting one does not spin.
const PAUSE: Duration = Duration::from_millis(10);

impl DnsServer {
    /// Serves the zone on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free for both UDP and TCP.
    pub async fn start(zone: Zone) -> io::Result<Self> {
        Self::start_on(zone, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Serves the zone on this address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound for both UDP and TCP.
    pub async fn start_on(zone: Zone, address: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind(address).await?;
        let address = tcp.local_addr()?;
        let mut tasks = Tasks::start(serve_udp(udp, zone.clone()));
        tasks.add(serve_tcp(tcp, zone.clone()));
        Ok(Self { address, zone, _tasks: tasks })
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The zone that it serves, to be edited.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = if address.port() == 0 { ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if attempts == 0 || error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve_udp(socket: UdpSocket, zone: Zone) {
    let socket = Arc::new(socket);
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        while let Some(over) = answers.try_join_next() {
            ended(over);
        }
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let reply = reply(&zone, &buffer[..length], Transport::Udp);
        let (socket, delay) = (Arc::clone(&socket), zone.current_delay());
        // Beside the loop: a delayed answer must not delay the next query.
        answers.spawn(async move {
            tokio::time::sleep(delay).await;
            if let Reply::Bytes(bytes) = reply {
                // A client that has gone is its own affair.
                let _ = socket.send_to(&bytes, client).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    let mut connections = JoinSet::new();
    loop {
        match accepted(&listener, &mut connections).await {
            // The end of a connection, good or bad, concerns only that connection.
            Ok((stream, _)) => drop(connections.spawn(serve_connection(stream, zone.clone()))),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Each message is preceded by its length in two bytes (RFC 1035 §4.2.2).
async fn serve_connection(mut stream: TcpStream, zone: Zone) -> io::Result<()> {
    loop {
        let mut request = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut request).await?;
        let reply = reply(&zone, &request, Transport::Tcp);
        tokio::time::sleep(zone.current_delay()).await;
        match reply {
            Reply::Silence => {}
            Reply::Close => return Ok(()),
            Reply::Bytes(bytes) => {
                let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
                let framed = [&length.to_be_bytes(), bytes.as_slice()].concat();
                stream.write_all(&framed).await?;
            }
        }
    }
}
