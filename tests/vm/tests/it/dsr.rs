//! `skerry lb` with direct return, end to end: the balancer wraps, a backend's `ipip` device unwraps, the
//! backend answers the client itself.
//!
//! ```text
//! client 192.168.60.100 ──┐            ┌── balancer 192.168.60.1, 192.0.2.10 on lo
//!                         ├── bridge ──┤
//!                         │            └── backends 192.168.60.11 and .12, 192.0.2.10 on lo, ipip0
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use skerry_lab::{Netns, paths};
use skerry_vm_cases::lacks_device;

const VIP: &str = "192.0.2.10";
/// Until the balancer's programs are loaded and its neighbours known: an emulated CPU takes 10 s.
const START: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
/// Two backends are both hit: one is left out by this many connections once in 10^6 runs.
const CONNECTIONS: usize = 20;
/// Full segments, which don't fit the wire once they are wrapped.
const BULK: usize = 300_000;

struct Wire(Netns);

impl Wire {
    fn new() -> Wire {
        let netns = Netns::unique("wire").unwrap();
        netns.ip("link add br0 type bridge").unwrap();
        netns.ip("link set br0 up").unwrap();
        Wire(netns)
    }

    /// A machine on it. Checksums are made whole by who sends: XDP can't do that later.
    fn machine(&self, name: &str, number: u8) -> Netns {
        let netns = Netns::unique(name).unwrap();
        self.0.ip(&format!("link add m{number} type veth peer name up0 netns {}", netns.name())).unwrap();
        self.0.ip(&format!("link set m{number} master br0 up")).unwrap();
        netns.ip("link set up0 up").unwrap();
        netns.ip(&format!("addr add 192.168.60.{number}/24 dev up0")).unwrap();
        netns.sh("ethtool -K up0 tx off").unwrap();
        netns
    }
}

/// A backend as the README says: says its name, the client, and how many bytes came. Ends with the test's
/// process.
fn backend(wire: &Wire, name: &'static str, number: u8) -> Netns {
    let netns = wire.machine(name, number);
    netns.ip("link add ipip0 type ipip external").unwrap();
    netns.ip("link set ipip0 up").unwrap();
    netns.ip(&format!("addr add {VIP}/32 dev lo")).unwrap();
    netns.sh("for f in all ipip0; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done").unwrap();
    let listener = netns.run(|| TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            std::thread::spawn(move || {
                let length = io::copy(&mut stream, &mut io::sink()).unwrap_or_default();
                let _ = stream.write_all(format!("{name} {} {length}", client.ip()).as_bytes());
            });
        }
    });
    netns
}

/// The process, ended and its program taken off with this value.
struct Balancer {
    child: Child,
    pins: PathBuf,
}

impl Balancer {
    fn start(netns: &Netns, config: &str, log: &std::path::Path) -> Balancer {
        let pins = PathBuf::from(format!("/sys/fs/bpf/skt-lb-{}", std::process::id()));
        let file = std::fs::File::create(log).unwrap();
        let mut command = netns.command(&paths::binary("skerry").unwrap().display().to_string());
        command.args([
            "lb",
            "--config",
            config,
            "--device",
            "up0",
            "--xdp-mode",
            "generic",
            "--flows",
            "4096",
        ]);
        command.arg("--pin-root").arg(&pins);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Balancer { child: command.spawn().unwrap(), pins }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(program) = paths::binary("skerry") {
            let _ = Command::new(program).args(["lb", "--remove", "--pin-root"]).arg(&self.pins).status();
        }
    }
}

/// Sends `length` bytes to the virtual address and returns what comes back.
fn ask(client: &Netns, length: usize) -> io::Result<String> {
    let to = SocketAddr::new(VIP.parse().map_err(io::Error::other)?, 80);
    let talk = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![b'x'; length])?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    client.run(talk).map_err(io::Error::other)?
}

#[test]
fn backends_unwrap_by_an_ipip_device_and_answer_the_client_themselves() {
    if lacks_device("backends_unwrap_by_an_ipip_device_and_answer_the_client_themselves", "ipip external") {
        return;
    }
    let wire = Wire::new();
    let client = wire.machine("client", 100);
    let (one, two) = (backend(&wire, "one", 11), backend(&wire, "two", 12));
    let balancer = wire.machine("lb", 1);
    balancer.ip(&format!("addr add {VIP}/32 dev lo")).unwrap();
    client.ip(&format!("route add {VIP}/32 via 192.168.60.1")).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (config, log) = (folder.path().join("lb.yaml"), folder.path().join("log"));
    let text = format!(
        "vips:\n- address: {VIP}\n  port: 80\n  mode: dsr\n  \
         backends: [{{address: 192.168.60.11}}, {{address: 192.168.60.12}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let _running = Balancer::start(&balancer, &config.display().to_string(), &log);
    let begun = Instant::now();
    let mut last = ask(&client, 1);
    while last.is_err() && begun.elapsed() < START {
        last = ask(&client, 1);
    }
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    last.unwrap_or_else(|error| panic!("nobody answers: {error}; the balancer said:\n{}", said()));

    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..CONNECTIONS {
        let answer =
            ask(&client, 100).unwrap_or_else(|error| panic!("connection {number}: {error}\n{}", said()));
        *answers.entry(answer).or_default() += 1;
    }
    let expected = ["one 192.168.60.100 100", "two 192.168.60.100 100"];
    assert!(answers.keys().eq(expected), "{answers:?}");

    // The client learns from the balancer's "fragmentation needed" what fits the outer header.
    let answer = ask(&client, BULK).unwrap_or_else(|error| panic!("bulk: {error}\n{}", said()));
    assert!(answer.ends_with(&format!(" 192.168.60.100 {BULK}")), "{answer}");
    let learned = client.ip(&format!("route get {VIP}")).unwrap();
    assert!(learned.contains("mtu 1480"), "{learned}");

    for netns in [&one, &two] {
        let counted = netns.ip("-s -o link show ipip0").unwrap();
        assert!(
            !counted.contains("RX:  bytes packets errors dropped  missed   mcast \\         0"),
            "{counted}"
        );
    }
}
