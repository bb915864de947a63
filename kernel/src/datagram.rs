//! What a server of datagrams needs and the standard library does not have: many of them by one system call,
//! answers from the address that was asked, and sockets that are handed from one process to another.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use crate::{Error, sys::datagram as sys};

/// Where a datagram came from, and which of our addresses it was sent to.
#[derive(Clone, Copy)]
pub struct Asker(sys::Peer);

impl Asker {
    /// IPv4 addresses come as such from a socket for both families, too.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address()
    }

    /// The address of ours.
    pub fn asked_at(&self) -> Option<IpAddr> {
        self.0.local()
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {:?}", self.address(), self.asked_at())
    }
}

/// Datagrams that were received together.
pub struct Batch {
    buffers: Vec<Vec<u8>>,
    askers: Vec<sys::Peer>,
    lengths: Vec<usize>,
    count: usize,
}

impl Batch {
    /// Room for `count` datagrams of at most `size` bytes.
    pub fn new(count: usize, size: usize) -> Batch {
        Batch {
            buffers: vec![vec![0; size]; count],
            askers: vec![sys::Peer::none(); count],
            lengths: vec![0; count],
            count: 0,
        }
    }

    /// Waits for one and takes all that are there, or as many as there is room for.
    ///
    /// # Errors
    /// The socket's, EINTR among them.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.count = 0;
        self.count = sys::receive(socket.as_fd(), &mut self.buffers, &mut self.askers, &mut self.lengths)?;
        Ok(())
    }

    /// What was received last; a datagram that was too long is empty.
    pub fn iter(&self) -> impl Iterator<Item = (Asker, &[u8])> {
        (0..self.count).map(|at| (Asker(self.askers[at]), &self.buffers[at][..self.lengths[at]]))
    }
}

/// Makes answers go out from the address that was asked. Before the first one is received.
///
/// # Errors
/// The kernel's.
pub fn answer_from_where_asked(socket: &UdpSocket) -> Result<(), Error> {
    let failed = |source| Error::system("ask for destinations of", "a datagram socket", source);
    let is_v6 = socket.local_addr().map_err(failed)?.is_ipv6();
    sys::tell_destination(socket.as_fd(), is_v6).map_err(failed)
}

/// Sends each answer. One that the kernel does not take (nobody is there, no route) is passed over; how many
/// were.
pub fn send_answers(socket: &UdpSocket, answers: &[(Asker, &[u8])]) -> usize {
    let (mut at, mut refused) = (0, 0);
    let all: Vec<(&sys::Peer, &[u8])> = answers.iter().map(|(asker, bytes)| (&asker.0, *bytes)).collect();
    while at < all.len() {
        match sys::answer(socket.as_fd(), &all[at..]) {
            Ok(sent) => at += sent.max(1),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => (at, refused) = (at + 1, refused + 1),
        }
    }
    refused
}

/// Sends bytes, at least one, and with them descriptors, at most 32: the other process has them then, too.
/// Blocks.
///
/// # Errors
/// The socket's; none or too many descriptors.
pub fn pass_descriptors(to: &UnixStream, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> Result<usize, Error> {
    sys::pass(to.as_fd(), bytes, passed)
        .map_err(|source| Error::system("pass descriptors through", "a Unix socket", source))
}

/// Receives bytes and the descriptors that came with the first of them. Blocks.
///
/// # Errors
/// The socket's.
pub fn take_descriptors(from: &UnixStream, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Error> {
    sys::take(from.as_fd(), bytes)
        .map_err(|source| Error::system("take descriptors from", "a Unix socket", source))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::Ipv4Addr, os::fd::AsRawFd};

    use super::*;

    fn answers_come_from_where_was_asked(listen: &str, ask_at: &str, ask_from: &str) {
        let server = UdpSocket::bind(listen).unwrap();
        answer_from_where_asked(&server).unwrap();
        let at = SocketAddr::new(ask_at.parse().unwrap(), server.local_addr().unwrap().port());
        let client = UdpSocket::bind(ask_from).unwrap();
        // A connected socket hears nobody else.
        client.connect(at).unwrap();
        let mut batch = Batch::new(4, 16);
        for text in ["one", "two", "a text that is too long for us"] {
            client.send(text.as_bytes()).unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < 3 {
            batch.receive(&server).unwrap();
            let got: Vec<(Asker, &[u8])> = batch.iter().collect();
            for (asker, _) in &got {
                assert_eq!(
                    (asker.address().unwrap(), asker.asked_at().unwrap()),
                    (client.local_addr().unwrap(), at.ip())
                );
            }
            heard.extend(got.iter().map(|(_, bytes)| bytes.to_vec()));
            assert_eq!(send_answers(&server, &got), 0);
        }
        assert_eq!(heard, [&b"one"[..], b"two", b""]);
        let mut buffer = [0; 16];
        for expected in [&b"one"[..], b"two", b""] {
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
    }

    #[test]
    fn an_ipv4_client_is_answered_from_the_address_that_it_asked() {
        answers_come_from_where_was_asked("0.0.0.0:0", "127.0.0.9", "127.0.0.1:0");
    }

    #[test]
    fn a_socket_for_both_families_answers_both() {
        if UdpSocket::bind("[::1]:0").is_err() {
            skerry_lab::skipped("a_socket_for_both_families_answers_both", "this kernel has no IPv6");
            return;
        }
        answers_come_from_where_was_asked("[::]:0", "127.0.0.9", "127.0.0.1:0");
        answers_come_from_where_was_asked("[::]:0", "::1", "[::1]:0");
    }

    #[test]
    fn a_socket_that_is_handed_over_is_the_same_one() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        pass_descriptors(&here, b"x", &[socket.as_fd(), socket.as_fd()]).unwrap();
        here.write_all(b"rest").unwrap();
        let mut bytes = [0; 1];
        let (length, taken) = take_descriptors(&there, &mut bytes).unwrap();
        assert_eq!((length, bytes, taken.len()), (1, *b"x", 2));
        let again = UdpSocket::from(taken.into_iter().next().unwrap());
        assert_ne!(again.as_raw_fd(), socket.as_raw_fd());
        assert_eq!(again.local_addr().unwrap(), socket.local_addr().unwrap());
        let (none, empty) = take_descriptors(&there, &mut bytes).unwrap();
        assert_eq!((none, empty.len()), (1, 0));
        assert!(pass_descriptors(&here, b"x", &[]).is_err());
    }
}
