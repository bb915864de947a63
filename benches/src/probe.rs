//! The ends of a measurement: this program again, started in a node's namespaces and cgroup, on a core of its
//! own.

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use skerry_lab::{Netns, Node};

/// Where a node has this program: what it is built into may be hidden there.
pub const PROGRAM: &str = "/opt/skerry-benches";
const LIMIT: Duration = Duration::from_secs(2);
/// Between two tries to connect where nothing tells that it would work now.
const LOOK: Duration = Duration::from_millis(1);

pub fn is_role(word: &str) -> bool {
    ["backend", "dials", "waits", "watches"].contains(&word)
}

/// Runs one end; its last line of output is its result.
///
/// # Errors
/// When a connection fails, or the arguments are not those of [`backend`] or [`Watcher::start`].
pub fn run(role: &str, args: &[String]) -> Result<()> {
    let arg = |index: usize| {
        args.get(index).map(String::as_str).with_context(|| format!("{role}: too few arguments"))
    };
    match role {
        "backend" => serve(arg(0)?.parse()?, arg(1)?.as_bytes()),
        "dials" => dial(arg(0)?.as_ref()),
        "waits" => wait_for(args),
        _ => watch_loop(arg(0)?.parse()?),
    }
}

/// Nanoseconds of the clock that all processes share.
pub fn now_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// When there is no such core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core).with_context(|| format!("name core {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("stay on core {core}"))
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server in `netns` that takes every connection on `port`, sends `word` (none: empty) and closes.
///
/// # Errors
/// When it can't be started.
pub fn backend(netns: &Netns, port: u16, word: &str) -> Result<Running> {
    let exe = std::env::current_exe().context("find this program")?;
    let mut command = netns.command("nice");
    command.args(["-n", "-20", "taskset", "-c", "1"]).arg(exe).args(["backend", &port.to_string(), word]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("start the backend")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("the backend's output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim() != "listening" {
        bail!("the backend did not start");
    }
    Ok(Running(child))
}

/// Puts this program where `node` can start it.
///
/// # Errors
/// When it can't be copied.
pub fn install(node: &Node) -> Result<()> {
    let exe = std::env::current_exe().context("find this program")?;
    let to = node.dir().join(PROGRAM.trim_start_matches('/'));
    std::fs::copy(&exe, &to).with_context(|| format!("copy this program to {}", to.display())).map(drop)
}

/// A client that connects all the time and says when the word that it gets changes.
#[derive(Debug)]
pub struct Watcher {
    _child: Running,
    lines: std::sync::mpsc::Receiver<(String, u64)>,
}

impl Watcher {
    /// # Errors
    /// When it can't be started.
    pub fn start(node: &Node, to: SocketAddrV4) -> Result<Watcher> {
        let mut command: Command = node.command("taskset")?;
        command.args(["-c", "0", PROGRAM, "watches", &to.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("start the watcher")?;
        let stdout = child.stdout.take().context("the watcher's output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let parsed =
                    line.split_once(' ').and_then(|(word, at)| Some((word.to_owned(), at.parse().ok()?)));
                if parsed.is_some_and(|change| sender.send(change).is_err()) {
                    break;
                }
            }
        });
        Ok(Watcher { _child: Running(child), lines })
    }

    /// When (by [`now_ns`]) the first connection began that got `word`.
    ///
    /// # Errors
    /// When none does within `limit`.
    pub fn until(&self, word: &str, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (seen, at) = self
                .lines
                .recv_timeout(left)
                .with_context(|| format!("no answer {word:?} within {limit:?}"))?;
            if seen == word {
                return Ok(at);
            }
        }
    }
}

/// A client that dials some addresses one after the other, each until it answers.
#[derive(Debug)]
pub struct Waiter {
    _child: Running,
    done: std::sync::mpsc::Receiver<u64>,
}

impl Waiter {
    /// # Errors
    /// When it can't be started.
    pub fn start(node: &Node, to: &[SocketAddrV4]) -> Result<Waiter> {
        let mut command = node.command(PROGRAM)?;
        command.arg("waits").args(to.iter().map(SocketAddrV4::to_string));
        let mut child = command.stdout(Stdio::piped()).spawn().context("start the waiting client")?;
        let stdout = child.stdout.take().context("the client's output")?;
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut said = String::new();
            let at = BufReader::new(stdout).read_line(&mut said).ok().and_then(|_| said.trim().parse().ok());
            at.map(|at| sender.send(at))
        });
        Ok(Waiter { _child: Running(child), done })
    }

    /// When (by [`now_ns`]) the last of them had answered.
    ///
    /// # Errors
    /// When that is not within `limit`.
    pub fn done(&self, limit: Duration) -> Result<u64> {
        self.done.recv_timeout(limit).with_context(|| format!("no answer within {limit:?}"))
    }
}

fn wait_for(to: &[String]) -> Result<()> {
    for address in to {
        let address: SocketAddr = address.parse().with_context(|| format!("read {address}"))?;
        while TcpStream::connect_timeout(&address, LIMIT).is_err() {
            std::thread::sleep(LOOK);
        }
    }
    println!("{}", now_ns()?);
    Ok(())
}

/// How many of the addresses in a file answer.
fn dial(list: &Path) -> Result<()> {
    let text = std::fs::read_to_string(list).with_context(|| format!("read {}", list.display()))?;
    let answers = |line: &str| {
        let address: Option<SocketAddr> = line.parse().ok();
        address.is_some_and(|address| TcpStream::connect_timeout(&address, LIMIT).is_ok())
    };
    println!("{}", text.lines().filter(|line| answers(line)).count());
    Ok(())
}

fn serve(port: u16, word: &[u8]) -> Result<()> {
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("listen on {port}"))?;
    println!("listening");
    // A client that is gone already is no failure.
    for mut stream in listener.incoming().flatten() {
        let _ = stream.write_all(word);
    }
    Ok(())
}

fn watch_loop(to: SocketAddr) -> Result<()> {
    let mut last = String::new();
    loop {
        let begun = now_ns()?;
        let word = ask(to).unwrap_or_else(|_| "-".to_owned());
        if word != last {
            println!("{word} {begun}");
            last = word;
        }
    }
}

fn ask(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut word = String::new();
    stream.read_to_string(&mut word)?;
    Ok(word)
}
