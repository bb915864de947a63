//! A client in a process of its own, so that it can stand in a node's cgroup. Prints one line.
//!
//! `probe tcp ADDR:PORT`, `probe udp ADDR:PORT` (unconnected), `probe udp-connected ADDR:PORT`.

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, to] = arguments.as_slice() else {
        eprintln!("usage: probe tcp|udp|udp-connected ADDR:PORT");
        std::process::exit(2);
    };
    match probe(kind, to) {
        Ok(line) => println!("{line}"),
        Err(error) => println!("error {:?}", error.kind()),
    }
}

fn probe(kind: &str, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut buffer = [0; 1500];
    match kind {
        "tcp" => {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
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
            socket.connect(to)?;
            socket.send(b"one")?;
            let length = socket.recv(&mut buffer)?;
            let peer = socket.peer_addr()?;
            Ok(format!("peer {peer} said {}", String::from_utf8_lossy(&buffer[..length])))
        }
        other => Err(io::Error::other(format!("unknown kind {other}"))),
    }
}
