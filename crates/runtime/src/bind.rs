//! Binding: listening sockets whose errors say who wanted the address and what to do.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

/// Connections that the kernel completes before anybody accepts them.
const BACKLOG: i32 = 1024;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {used_for}: {source}{}", remedy(source))]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What would have been served there, e.g. "health and metrics".
    pub used_for: String,
    /// What the operating system said.
    pub source: io::Error,
}

/// Listens on an address; `used_for` names the use in the error. Port 0 takes any free port: ask the listener for its
/// `local_addr`.
///
/// `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` says, and becomes `0.0.0.0` where there is no IPv6. The listener
/// is non-blocking and belongs to no runtime yet, so that it can be handed to any.
///
/// # Errors
/// When the address is in use, not of this machine, or its port needs a permission that is missing.
pub fn bind(address: SocketAddr, used_for: &str) -> Result<TcpListener, BindError> {
    let failed = |source| BindError { address, used_for: used_for.to_owned(), source };
    match listen(address) {
        Ok(listener) => Ok(listener),
        Err(error) => match without_ipv6(address, &error) {
            Some(ipv4) => listen(ipv4).map_err(failed),
            None => Err(failed(error)),
        },
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restarted process must not wait for the connections of the one before it to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address to take instead where the machine has no IPv6; only for "every address", never for a certain one.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED;
    let no_ipv6 = matches!(errno(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL));
    (everywhere && no_ipv6).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn remedy(error: &io::Error) -> &'static str {
    match errno(error) {
        Some(Errno::ADDRINUSE) => "; stop what listens there or choose another address",
        Some(Errno::ADDRNOTAVAIL) => "; choose an address of this machine",
        Some(Errno::ACCESS) => {
            "; choose a port of 1024 or above, or lower the pod's sysctl net.ipv4.ip_unprivileged_port_start"
        }
        Some(Errno::AFNOSUPPORT) => "; this machine has no IPv6, choose an IPv4 address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn kubelet_reaches_the_health_port_over_ipv4_too() {
        let listener = bind(address("[::]:0"), "health").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_ne!(port, 0);
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn a_machine_without_ipv6_gets_every_ipv4_address_instead() {
        let unsupported = io::Error::from(Errno::AFNOSUPPORT);
        let unavailable = io::Error::from(Errno::ADDRNOTAVAIL);
        let in_use = io::Error::from(Errno::ADDRINUSE);
        let ipv4 = Some(address("0.0.0.0:9902"));
        assert_eq!(without_ipv6(address("[::]:9902"), &unsupported), ipv4);
        assert_eq!(without_ipv6(address("[::]:9902"), &unavailable), ipv4);
        assert_eq!(without_ipv6(address("[::]:9902"), &in_use), None, "a busy port stays an error");
        assert_eq!(
            without_ipv6(address("[::1]:9902"), &unavailable),
            None,
            "loopback never becomes every address"
        );
        assert_eq!(without_ipv6(address("0.0.0.0:9902"), &unavailable), None);
    }

    #[test]
    fn a_busy_port_is_named_with_its_use_and_a_remedy() {
        let first = bind(address("127.0.0.1:0"), "admin").unwrap();
        let taken = first.local_addr().unwrap();
        let text = bind(taken, "admin").unwrap_err().to_string();
        let start = format!("cannot listen on {taken} for admin: Address already in use");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with("; stop what listens there or choose another address"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_named_with_a_remedy() {
        let text = bind(address("192.0.2.1:9902"), "health").unwrap_err().to_string();
        assert!(text.ends_with("; choose an address of this machine"), "{text}");
    }

    #[tokio::test]
    async fn a_listener_can_be_handed_to_a_runtime() {
        let listener = bind(address("127.0.0.1:0"), "health").unwrap();
        assert!(tokio::net::TcpListener::from_std(listener).is_ok());
    }
}
