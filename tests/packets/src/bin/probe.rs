//! A client in a process of its own, so that it can stand in a node's cgroup. Prints one line.
//!
//! `probe tcp ADDR:PORT`, `probe mptcp ADDR:PORT` (RFC 8684; IPv4), `probe udp ADDR:PORT` (unconnected),
//! `probe udp-connected ADDR:PORT`, `probe udp-both ADDR:PORT ADDR:PORT` (a service and its backend in turn,
//! from one socket).

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [kind, service, backend] if kind == "udp-both" => ask_both(service, backend),
        [kind, to] => probe(kind, to),
        _ => {
            eprintln!(
                "usage: probe tcp|mptcp|udp|udp-connected ADDR:PORT, probe udp-both ADDR:PORT ADDR:PORT"
            );
            std::process::exit(2);
        }
    };
    match done {
        Ok(line) => println!("{line}"),
        Err(error) => println!("error {:?}", error.kind()),
    }
}

fn probe(kind: &str, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut buffer = [0; 1500];
    match kind {
        "tcp" | "mptcp" => {
            let mut stream =
                if kind == "tcp" { TcpStream::connect_timeout(&to, PATIENCE)? } else { connect_mptcp(to)? };
            stream.set_read_timeout(Some(PATIENCE))?;
            let peer = stream.peer_addr()?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(format!("peer {peer} said {said}"))
        }
        "udp" => {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"one", to)?;
            let (first, from) = socket.recv_from(&mut buffer)?;
            let said = String::from_utf8_lossy(&buffer[..first]).into_owned();
            socket.send_to(b"two", to)?;
            let (second, _) = socket.recv_from(&mut buffer)?;
            Ok(format!("from {from} said {said} then {}", String::from_utf8_lossy(&buffer[..second])))
        }
        "udp-connected" => {
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            if let Err(error) = socket.connect(to) {
                return Ok(format!("no connection: {:?}", error.kind()));
            }
            socket.send(b"one")?;
            let length = socket.recv(&mut buffer)?;
            let peer = socket.peer_addr()?;
            Ok(format!("peer {peer} said {}", String::from_utf8_lossy(&buffer[..length])))
        }
        other => Err(io::Error::other(format!("unknown kind {other}"))),
    }
}

/// Under which addresses the answers come.
fn ask_both(service: &str, backend: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let senders: io::Result<Vec<String>> = [service, backend, service, backend, backend]
        .iter()
        .map(|to| {
            socket.send_to(b"one", to)?;
            Ok(socket.recv_from(&mut [0; 1500])?.1.to_string())
        })
        .collect();
    Ok(senders?.join(" "))
}

/// A connection whose TCP sockets the kernel makes by itself.
fn connect_mptcp(to: SocketAddr) -> io::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
    // SAFETY: no memory is passed.
    let number =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is that of a new descriptor, which nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let patience = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both structures live across the calls, and the lengths are their own.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const patience).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        ) | libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}
