//! What the test program does when it is started as a child: a server, a client, an agent. A child works
//! until its standard input is closed, then prints one line.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proxy_agent::Config;
use serde::{Deserialize, Serialize};

use super::net;

/// Says to the program which role to play.
pub const ROLE: &str = "SKERRY_TEST_ROLE";

/// What a client saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers by the name of the server that gave them.
    pub answers: BTreeMap<String, u64>,
    /// Everything that was not an answer, by what it was.
    pub lost: BTreeMap<String, u64>,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.answers.values().sum()
    }

    fn note(&mut self, result: io::Result<String>) {
        match result {
            Ok(name) => *self.answers.entry(name).or_default() += 1,
            Err(error) => *self.lost.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// A child that plays a role.
pub struct Role {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Role {
    /// Starts `command` with this program's path in the place of `{}`, and waits until it says that it is
    /// ready.
    pub fn start(role: &str, arguments: &[&str], command: impl Fn(&str) -> Command) -> Role {
        Role::try_start(role, arguments, command).unwrap_or_else(|| panic!("{role} {arguments:?} ended"))
    }

    /// The agent of a node, in a role that is one.
    pub fn agent(role: &str, node: &net::TestNode) -> Role {
        let (dir, cgroup) = (node.dir().display().to_string(), node.cgroup.dir().display().to_string());
        Role::start(role, &[&node.name, &dir, &cgroup], |line| node.command(line))
    }

    /// As [`Role::start`]. `None`: it ended before it was ready.
    pub fn try_start(role: &str, arguments: &[&str], command: impl Fn(&str) -> Command) -> Option<Role> {
        let program = std::env::current_exe().unwrap();
        let line = format!("{} {}", program.display(), arguments.join(" "));
        let mut command = command(&line);
        command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        if said.is_empty() {
            child.wait().unwrap();
            return None;
        }
        assert_eq!(said, "ready\n", "role {role} {arguments:?}");
        Some(Role { child, stdin, stdout })
    }

    /// Ends the child; whether it lived until then.
    pub fn ends_well(mut self) -> bool {
        drop(self.stdin.take());
        self.child.wait().unwrap().success()
    }

    /// Ends the child and returns its line.
    pub fn end(mut self) -> String {
        drop(self.stdin.take());
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }

    pub fn tally(self) -> Tally {
        serde_json::from_str(&self.end()).unwrap()
    }

    /// Lets a client ask for a while, and returns what it saw.
    pub fn for_a_moment(self) -> Tally {
        std::thread::sleep(Duration::from_millis(300));
        self.tally()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Plays `role` with the program's arguments.
pub fn play(role: &str) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (role, &arguments[..]) {
        ("serve", [name, port]) => serve(name, port.parse().unwrap()),
        ("dial", [to]) => client(to, |to, _| dial(to)),
        ("keep", [to]) => client(to, keep()),
        ("ask", [to]) => client(to, ask()),
        ("agent", [name, dir, cgroup]) => agent(net::config(name, dir.as_ref(), cgroup.as_ref())),
        // Runs of slots that nobody points to are used again at once, as where the lists take long to come.
        ("hasty agent", [name, dir, cgroup]) => {
            agent(Config { slot_grace: Duration::ZERO, ..net::config(name, dir.as_ref(), cgroup.as_ref()) })
        }
        // With the maps of a real node.
        ("big agent", [name, dir, cgroup]) => agent(Config {
            map_sizes: Config::new(name).map_sizes,
            ..net::config(name, dir.as_ref(), cgroup.as_ref())
        }),
        other => panic!("no such role: {other:?}"),
    }
}

fn ready() {
    println!("ready");
    io::stdout().flush().unwrap();
}

fn until_told() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let set = over.clone();
    std::thread::spawn(move || {
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        set.store(true, Ordering::SeqCst);
    });
    over
}

/// Says its name to whoever connects, and again for each byte it gets; over UDP for each datagram.
fn serve(name: &str, port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let line = format!("{name}\n");
    let (tcp_line, udp_line) = (line.clone(), line);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let line = tcp_line.clone();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.write_all(line.as_bytes()).is_ok()
                    && stream.read(&mut byte).is_ok_and(|n| n == 1)
                {}
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(udp_line.as_bytes(), from));
        }
    });
    ready();
    drop(io::copy(&mut io::stdin(), &mut io::sink()));
}

const PATIENCE: Duration = Duration::from_secs(5);

fn client(to: &str, mut ask: impl FnMut(SocketAddr, &mut bool) -> io::Result<String>) {
    let to = to.parse().unwrap();
    let (over, mut tally, mut is_open) = (until_told(), Tally::default(), true);
    ready();
    while !over.load(Ordering::SeqCst) && is_open {
        tally.note(ask(to, &mut is_open));
    }
    println!("{}", serde_json::to_string(&tally).unwrap());
}

/// A connection of its own for each question. Paced a little, so that ports don't run out.
fn dial(to: SocketAddr) -> io::Result<String> {
    std::thread::sleep(Duration::from_micros(500));
    let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(in_step("connect"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .map_err(in_step(&format!("answer to {}", stream.local_addr()?)))?;
    named(&line)
}

/// Says where an error came up.
fn in_step(step: &str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{step}: {error}"))
}

/// One connection for all questions; it ends at the first failure.
fn keep() -> impl FnMut(SocketAddr, &mut bool) -> io::Result<String> {
    let mut open: Option<BufReader<TcpStream>> = None;
    move |to, is_open| {
        let mut question = || {
            let reader = match &mut open {
                Some(reader) => {
                    std::thread::sleep(Duration::from_millis(1));
                    reader.get_mut().write_all(b"?")?;
                    reader
                }
                None => {
                    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    open.insert(BufReader::new(stream))
                }
            };
            let mut line = String::new();
            reader.read_line(&mut line)?;
            named(&line)
        };
        question().inspect_err(|_| *is_open = false)
    }
}

/// Datagrams from a connected socket, and from a new one when that fails.
fn ask() -> impl FnMut(SocketAddr, &mut bool) -> io::Result<String> {
    let mut socket = None;
    move |to, _| {
        let open = match &socket {
            Some(open) => open,
            None => {
                let fresh = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                fresh.set_read_timeout(Some(Duration::from_millis(200)))?;
                fresh.connect(to)?;
                &*socket.insert(fresh)
            }
        };
        std::thread::sleep(Duration::from_millis(1));
        let mut buffer = [0; 64];
        match open.send(b"?").and_then(|_| open.recv(&mut buffer)) {
            Ok(length) => named(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) => {
                // Silence is one thing; a socket that was ended is of no more use.
                if error.kind() != io::ErrorKind::WouldBlock {
                    socket = None;
                }
                Err(error)
            }
        }
    }
}

fn named(line: &str) -> io::Result<String> {
    match line.trim_end() {
        "" => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
        name => Ok(name.to_owned()),
    }
}

/// An agent that ends by being killed, or when its standard input is closed. It is ready when the maps are in
/// sync.
fn agent(config: Config) {
    // As `skerry` does.
    skerry_kernel::return_freed_memory();
    super::log();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let (sender, mut progress) = tokio::sync::watch::channel(proxy_agent::Progress::default());
        let over = until_told();
        let token = shutdown.clone();
        let last = progress.clone();
        tokio::spawn(async move {
            drop(progress.wait_for(|progress| progress.is_ready && progress.syncs > 0).await);
            ready();
            while !over.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            token.cancel();
        });
        if let Err(error) = proxy_agent::run_with_progress(config, shutdown, sender).await {
            let mut cause: &dyn std::error::Error = &error;
            eprintln!("{cause}");
            while let Some(source) = cause.source() {
                eprintln!("because: {source}");
                cause = source;
            }
            std::process::exit(1);
        }
        // The line of this role: microseconds from the last event to the maps' having it.
        println!("{}", last.borrow().event_to_maps.as_micros());
    });
}
