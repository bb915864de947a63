//! Both ends of a connection in one thread: this program again, its client's sockets in a node (namespaces
//! and cgroup) and its server's in another namespace.
//!
//! On veths a packet that is sent is received within the same system call, by whichever stacks and programs
//! lie between. With both ends in one thread nobody is woken, no second core has a say, and what is measured
//! is the path and both ends' system calls.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use skerry_lab::{Netns, Node, shown};

use crate::{
    probe,
    stats::{percentile, quartiles},
};

pub const ROLE: &str = "ends";
/// Connections that are open at once.
const AT_ONCE: usize = 32;
const LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a question and of its answer.
const MESSAGE: [u8; 64] = [0x5a; 64];

/// Where the client is.
#[derive(Clone, Copy, Debug)]
pub enum Client<'a> {
    /// Its connections pass the node's socket hooks.
    Node(&'a Node),
    Netns(&'a Netns),
    /// In a pod's namespace, as one of the node's processes.
    Pod(&'a Node, &'a Netns),
}

/// Where the server is.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    pub netns: &'a Netns,
    /// Its own address.
    pub address: SocketAddrV4,
}

/// What a client dials: one address, or each time another one of those that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    pub first: SocketAddrV4,
    pub count: u32,
}

impl From<SocketAddrV4> for Dial {
    fn from(first: SocketAddrV4) -> Dial {
        Dial { first, count: 1 }
    }
}

impl Dial {
    fn read(first: &str, count: &str) -> Result<Dial> {
        Ok(Dial { first: first.parse()?, count: count.parse()? })
    }

    /// One of them, drawn as the programs draw a backend.
    fn draw(&self) -> SocketAddrV4 {
        let number = rand::random_range(0..self.count);
        SocketAddrV4::new(Ipv4Addr::from(u32::from(*self.first.ip()) + number), self.first.port())
    }
}

/// What [`connects`] measures.
#[derive(Clone, Copy, Debug)]
pub struct Connects {
    /// Per second: made, accepted and closed by both ends, 32 after each other, in the median.
    pub rate: f64,
    /// Microseconds of connect.
    pub p50_us: f64,
    pub p99_us: f64,
}

/// New TCP connections to `dial` that `to` accepts, for `time`.
///
/// # Errors
/// When one of them fails.
pub fn connects(from: Client<'_>, dial: impl Into<Dial>, to: Server<'_>, time: Duration) -> Result<Connects> {
    match start("connects", from, dial.into(), to, time)?.as_slice() {
        [rate, p50_us, p99_us] => Ok(Connects { rate: *rate, p50_us: *p50_us, p99_us: *p99_us }),
        other => anyhow::bail!("three figures of connections, not {other:?}"),
    }
}

/// Nanoseconds of a datagram to `dial` and its answer.
///
/// # Errors
/// When one does not arrive within two seconds.
pub fn datagrams(from: Client<'_>, dial: SocketAddrV4, to: Server<'_>, time: Duration) -> Result<f64> {
    start("datagrams", from, dial.into(), to, time)?.first().copied().context("a figure")
}

/// Nanoseconds of a request of 64 bytes on an open TCP connection and its answer.
///
/// # Errors
/// When the connection breaks.
pub fn requests(from: Client<'_>, dial: SocketAddrV4, to: Server<'_>, time: Duration) -> Result<f64> {
    start("requests", from, dial.into(), to, time)?.first().copied().context("a figure")
}

/// Requests per second as [`requests`], the server's end being a thread on a core of its own that is woken
/// each time.
///
/// # Errors
/// When the connection breaks.
pub fn requests_apart(from: Client<'_>, dial: SocketAddrV4, to: Server<'_>, time: Duration) -> Result<f64> {
    start("requests-apart", from, dial.into(), to, time)?.first().copied().context("a figure")
}

/// Gigabits per second of one TCP connection, a thread and a core for each end.
///
/// # Errors
/// When the connection breaks.
pub fn bulk(from: Client<'_>, dial: SocketAddrV4, to: Server<'_>, time: Duration) -> Result<f64> {
    start("bulk", from, dial.into(), to, time)?.first().copied().context("a figure")
}

fn start(what: &str, from: Client<'_>, dial: Dial, to: Server<'_>, time: Duration) -> Result<Vec<f64>> {
    // First in line for its core: a build beside it would show in one half of a pair only.
    let (mut command, program) = match from {
        Client::Node(node) => (node.command("nice")?, probe::PROGRAM.into()),
        Client::Netns(netns) => {
            (netns.command("nice"), std::env::current_exe().context("find this program")?)
        }
        Client::Pod(node, netns) => {
            let mut command = node.command("nsenter")?;
            command.arg(format!("--net={}", netns.path().display())).args(["--", "nice"]);
            (command, probe::PROGRAM.into())
        }
    };
    command.args(["-n", "-20"]).arg(program).args([ROLE, what]);
    command.args([dial.first.to_string(), dial.count.to_string(), to.address.to_string()]);
    command.arg(time.as_millis().to_string());
    let said = with_netns(&mut command, to.netns)?;
    said.split_whitespace()
        .map(|word| word.parse().with_context(|| format!("read {said:?}")))
        .collect::<Result<Vec<f64>>>()
}

/// The server's namespace is the command's standard input: its name may lead nowhere in the client's mount
/// namespace.
fn with_netns(command: &mut Command, netns: &Netns) -> Result<String> {
    let path = netns.path();
    let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let shown = shown(command);
    let done = command.stdin(Stdio::from(file)).output().with_context(|| format!("start `{shown}`"))?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{shown}`: {}: {}", done.status, error.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The role of a process that was started by one of the functions above.
///
/// # Errors
/// When a connection fails or the arguments are others.
pub fn run(args: &[String]) -> Result<()> {
    let [what, first, count, listen, time] = args else {
        anyhow::bail!("ends: WHAT FIRST COUNT LISTEN MILLISECONDS")
    };
    let (dials, listen): (Dial, SocketAddrV4) = (Dial::read(first, count)?, listen.parse()?);
    let dial = dials.first;
    let time = Duration::from_millis(time.parse()?);
    probe::pin(0)?;
    let figures = match what.as_str() {
        "connects" => connect_loop(dials, &over_there(|| TcpListener::bind(listen))?, time)?,
        "datagrams" => vec![datagram_loop(dial, &over_there(|| UdpSocket::bind(listen))?, time)?],
        "requests" => vec![request_loop(dial, &over_there(|| TcpListener::bind(listen))?, time)?],
        "requests-apart" => vec![request_apart(dial, over_there(|| TcpListener::bind(listen))?, time)?],
        "bulk" => vec![send_bulk(dial, over_there(|| TcpListener::bind(listen))?, time)?],
        other => anyhow::bail!("no measurement {other}"),
    };
    println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Makes a socket in the namespace that is our standard input.
fn over_there<T: Send>(make: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(std::io::stdin().as_fd(), CloneFlags::CLONE_NEWNET)
                .context("enter the server's namespace")?;
            make().context("listen there")
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn connect_loop(dials: Dial, listener: &TcpListener, time: Duration) -> Result<Vec<f64>> {
    // Of each connect, and of each round of connects and closes.
    let (mut connects_ns, mut rounds_ns) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 11));
    let begun = Instant::now();
    let mut is_warm = false;
    while begun.elapsed() < time || rounds_ns.is_empty() {
        let mut clients = Vec::with_capacity(AT_ONCE);
        let round = Instant::now();
        for _ in 0..AT_ONCE {
            let dial = dials.draw();
            let at = Instant::now();
            clients.push(TcpStream::connect(dial).with_context(|| format!("connect to {dial}"))?);
            if is_warm {
                connects_ns.push(at.elapsed().as_nanos() as f64);
            }
        }
        let accept = |_| listener.accept().context("accept").map(|(stream, _)| stream);
        let servers = (0..AT_ONCE).map(accept).collect::<Result<Vec<_>>>()?;
        drop(clients);
        drop(servers);
        if is_warm {
            rounds_ns.push(round.elapsed().as_nanos() as f64);
        }
        is_warm = true;
    }
    let rate = AT_ONCE as f64 * 1e9 / quartiles(&rounds_ns).median;
    Ok(vec![rate, percentile(&connects_ns, 0.5) / 1e3, percentile(&connects_ns, 0.99) / 1e3])
}

fn datagram_loop(dial: SocketAddrV4, server: &UdpSocket, time: Duration) -> Result<f64> {
    let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("make a socket")?;
    client.connect(dial).with_context(|| format!("connect to {dial}"))?;
    for socket in [&client, server] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    let mut room = [0; 128];
    round_trips(time, || {
        client.send(&MESSAGE).context("send a datagram")?;
        let (length, from) = server.recv_from(&mut room).context("no datagram arrived")?;
        server.send_to(&room[..length], from).context("answer")?;
        let length = client.recv(&mut room).context("no answer arrived")?;
        ensure!(length == MESSAGE.len(), "an answer of {length} bytes");
        Ok(())
    })
}

fn request_loop(dial: SocketAddrV4, listener: &TcpListener, time: Duration) -> Result<f64> {
    let mut client = TcpStream::connect(dial).with_context(|| format!("connect to {dial}"))?;
    let (mut server, _) = listener.accept().context("accept")?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
    }
    let mut room = [0; MESSAGE.len()];
    round_trips(time, || {
        client.write_all(&MESSAGE).context("send a request")?;
        server.read_exact(&mut room).context("no request arrived")?;
        server.write_all(&room).context("answer")?;
        client.read_exact(&mut room).context("no answer arrived")
    })
}

/// Nanoseconds a round: the median over stretches of 64, which a moment's disturbance does not move.
fn round_trips(time: Duration, mut round: impl FnMut() -> Result<()>) -> Result<f64> {
    const STRETCH: u32 = 64;
    for _ in 0..STRETCH {
        round()?;
    }
    let mut times_ns = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time || times_ns.is_empty() {
        let at = Instant::now();
        for _ in 0..STRETCH {
            round()?;
        }
        times_ns.push(at.elapsed().as_nanos() as f64 / f64::from(STRETCH));
    }
    Ok(quartiles(&times_ns).median)
}

fn request_apart(dial: SocketAddrV4, listener: TcpListener, time: Duration) -> Result<f64> {
    let server = std::thread::spawn(move || -> Result<()> {
        probe::pin(1)?;
        let (mut stream, _) = listener.accept().context("accept")?;
        stream.set_nodelay(true)?;
        let mut room = [0; MESSAGE.len()];
        // Until the client closes.
        while stream.read_exact(&mut room).is_ok() {
            stream.write_all(&room).context("answer")?;
        }
        Ok(())
    });
    let mut client = TcpStream::connect(dial).with_context(|| format!("connect to {dial}"))?;
    client.set_read_timeout(Some(LIMIT))?;
    client.set_nodelay(true)?;
    let mut room = [0; MESSAGE.len()];
    let ns = round_trips(time, || {
        client.write_all(&MESSAGE).context("send a request")?;
        client.read_exact(&mut room).context("no answer arrived")
    })?;
    drop(client);
    joined(server)?;
    Ok(1e9 / ns)
}

fn send_bulk(dial: SocketAddrV4, listener: TcpListener, time: Duration) -> Result<f64> {
    const CHUNK: usize = 128 << 10;
    let server = std::thread::spawn(move || -> Result<u64> {
        probe::pin(1)?;
        let (mut stream, _) = listener.accept().context("accept")?;
        let (mut room, mut sum) = (vec![0; CHUNK], 0);
        loop {
            match stream.read(&mut room).context("receive")? {
                0 => return Ok(sum),
                length => sum += length as u64,
            }
        }
    });
    let mut client = TcpStream::connect(dial).with_context(|| format!("connect to {dial}"))?;
    let chunk = vec![0x5a; CHUNK];
    let begun = Instant::now();
    while begun.elapsed() < time {
        client.write_all(&chunk).context("send")?;
    }
    drop(client);
    let bytes = joined(server)?;
    Ok(bytes as f64 * 8.0 / 1e9 / begun.elapsed().as_secs_f64())
}

fn joined<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
