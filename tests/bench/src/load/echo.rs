//! A server that sends back what comes: the backend of the TCP row.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// Serves without end.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(address: SocketAddr) -> Result<bool> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    accept(&listener);
    Ok(false)
}

/// One thread a connection: few of them, and little work for each byte.
pub fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || send_back(stream));
    }
}

fn send_back(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    // Only latency suffers if this fails.
    let _ = stream.set_nodelay(true);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
