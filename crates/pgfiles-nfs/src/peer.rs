//! Who connects. AUTH_SYS is what a peer says of itself, so only root and the user whom the daemon belongs to may speak at all: over
//! a socket its directory and the kernel see to that, over a port of this machine the table of its connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of this machine, and whose it is, where that is known.
    Local(Option<u32>),
    /// A port of this machine.
    Port(SocketAddr, Option<u32>),
    /// Another machine: who listens there lets everybody in.
    Remote(SocketAddr),
}

impl Peer {
    /// Whether it is let in.
    ///
    /// # Errors
    /// Why not.
    pub fn may_come(&self) -> Result<(), &'static str> {
        let ours = rustix::process::geteuid().as_raw();
        match self {
            Self::Local(Some(uid)) | Self::Port(_, Some(uid)) if *uid != ours && *uid != 0 => Err("it is another user's"),
            // The kernel of another system does not say; the directory of the socket keeps others out.
            Self::Local(_) | Self::Remote(_) => Ok(()),
            Self::Port(_, Some(_)) => Ok(()),
            Self::Port(_, None) if cfg!(target_os = "linux") => Err("whose it is cannot be found out"),
            Self::Port(_, None) => Ok(()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(Some(uid)) => write!(f, "a process of uid {uid}"),
            Self::Local(None) => write!(f, "a process of this machine"),
            Self::Port(from, Some(uid)) => write!(f, "{from} of uid {uid}"),
            Self::Port(from, None) | Self::Remote(from) => write!(f, "{from}"),
        }
    }
}

/// Who connects from a port.
pub(crate) fn of_tcp(from: SocketAddr, to: SocketAddr) -> Peer {
    // Of this machine if it is the loopback's, or comes from the very address that it goes to.
    if !from.ip().is_loopback() && from.ip() != to.ip() {
        return Peer::Remote(from);
    }
    Peer::Port(from, owner(from, to))
}

#[cfg(target_os = "linux")]
fn owner(from: SocketAddr, to: SocketAddr) -> Option<u32> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| owner_in(&std::fs::read_to_string(file).ok()?, from, to))
}

#[cfg(not(target_os = "linux"))]
fn owner(_from: SocketAddr, _to: SocketAddr) -> Option<u32> {
    None
}

/// The uid of a connection in a table of `man 5 proc_net`: `sl local_address rem_address st queues timer retransmits uid …`.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn owner_in(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = address(fields.nth(1)?)?;
        let remote = address(fields.next()?)?;
        let uid = fields.nth(4)?.parse().ok()?;
        let same = |a: SocketAddr, b: SocketAddr| a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical();
        (same(local, from) && same(remote, to)).then_some(uid)
    })
}

/// `0100007F:1F90`: words of four bytes in the machine's order, each in hexadecimal digits.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn the_table_says_whose_a_connection_is() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   1: 0100007F:D431 0100007F:0801 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n";
        let (from, to) = ("127.0.0.1:54321".parse().unwrap(), "127.0.0.1:2049".parse().unwrap());
        assert_eq!(owner_in(table, from, to), Some(1000));
        assert_eq!(owner_in(table, to, from), None);
        assert_eq!(address("00000000000000000000000001000000:0801"), Some("[::1]:2049".parse().unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_of_ours_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, from) = listener.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        let peer = of_tcp(from, server.local_addr().unwrap());
        assert_eq!(peer, Peer::Port(from, Some(rustix::process::geteuid().as_raw())));
        assert_eq!(peer.may_come(), Ok(()));
        assert!(Peer::Port(from, Some(4_000_000)).may_come().is_err());
        assert!(Peer::Local(Some(4_000_000)).may_come().is_err());
    }
}
