//! Servers and clients of the scenarios. A server's name is part of its answers.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use skerry_lab::Netns;

/// How long a client waits for an answer before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// A UDP server that answers `NAME:CLIENT:TEXT`; it ends with its value.
pub struct Echo {
    pub addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(netns: &Netns, bind: &str, name: &str) -> Echo {
        let socket = netns.run(|| UdpSocket::bind(bind)).unwrap().unwrap();
        // Bounds the time until `stop` is seen.
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let addr = socket.local_addr().unwrap();
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let _ = socket.send_to(format!("{name}:{from}:{text}").as_bytes(), from);
            }
        });
        Echo { addr, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A TCP server that says `NAME:CLIENT` and closes.
pub struct Greeter {
    pub addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Greeter {
    pub fn start(netns: &Netns, bind: &str, name: &str) -> Greeter {
        let listener = netns.run(|| TcpListener::bind(bind)).unwrap().unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let (stopped, waker) = (Arc::clone(&stop), listener.try_clone().unwrap());
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.write_all(format!("{name}:{from}").as_bytes());
            }
        });
        drop(waker);
        Greeter { addr, stop, thread: Some(thread) }
    }

    /// Ends the accept by a connection from the server's own namespace.
    pub fn end(mut self, netns: &Netns) {
        self.stop.store(true, Ordering::Relaxed);
        let to = SocketAddr::from(([127, 0, 0, 1], self.addr.port()));
        let _ = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A child that another test is just starting holds a copy of every socket until it is executed: a port that
/// was let go a moment ago may be taken for as long.
fn bind_again(address: &str) -> io::Result<UdpSocket> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            bound => return bound,
        }
    }
}

/// Sends a datagram from a new socket and returns the answer and who it is from.
pub fn ask(netns: &Netns, bind: &str, to: &str, text: &str) -> io::Result<(String, SocketAddr)> {
    netns
        .run(|| {
            let socket = bind_again(bind)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(text.as_bytes(), to)?;
            let mut buffer = [0; 65_536];
            let (length, from) = socket.recv_from(&mut buffer)?;
            Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
        })
        .map_err(io::Error::other)?
}

/// Connects and returns what the server says.
pub fn dial(netns: &Netns, to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    netns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })
        .map_err(io::Error::other)?
}

/// Segments that a client's socket has sent and got, as its own stack counts them: openings, acknowledgements
/// and what was sent again included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    pub sent: u64,
    pub received: u64,
}

/// As [`dial`]; how many segments that took, once the server has acknowledged the last of them.
pub fn dial_counted(netns: &Netns, to: &str) -> io::Result<(String, Segments)> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    netns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            stream.shutdown(Shutdown::Write)?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let info = tcp_info(&stream)?;
                if info.tcpi_state == TCP_CLOSE {
                    let (sent, received) = (info.tcpi_segs_out.into(), info.tcpi_segs_in.into());
                    return Ok((said, Segments { sent, received }));
                }
                if Instant::now() > deadline {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the last segment is not acknowledged",
                    ));
                }
                std::thread::yield_now();
            }
        })
        .map_err(io::Error::other)?
}

/// A socket's state that is over (RFC 9293 section 3.3.2), by the kernel's number.
const TCP_CLOSE: u8 = 7;

fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: integers: all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    if done == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Connects and sends `length` bytes; the server sends them back. Returns what came back.
pub fn exchange(netns: &Netns, to: &str, length: usize) -> io::Result<Vec<u8>> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    netns
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut writer = stream.try_clone()?;
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let bytes: Vec<u8> = pattern(length);
                    let _ = writer.write_all(&bytes);
                    let _ = writer.shutdown(Shutdown::Write);
                });
                let mut back = Vec::with_capacity(length);
                stream.read_to_end(&mut back)?;
                Ok(back)
            })
        })
        .map_err(io::Error::other)?
}

/// Bytes that show a displaced segment.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7) as u8 ^ (index >> 11) as u8).collect()
}

/// A TCP server for one connection that sends back what it receives.
pub fn mirror(netns: &Netns, bind: &str) -> JoinHandle<io::Result<u64>> {
    let listener = netns.run(|| TcpListener::bind(bind)).unwrap().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        io::copy(&mut &stream, &mut &stream)
    })
}
