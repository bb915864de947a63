//! A DNS process alone, with this process in the agent's place: what is said to it, and asked of it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use skerry_dns::{
    Name,
    feed::{Listeners, Source},
    model::{Place, Port, Protocol, Service},
    zone::{Change, KINDS},
};
use skerry_lab::paths;
use tokio_util::sync::CancellationToken;

pub const SERVICES: usize = 10_000;
/// Who the process becomes.
const UID: u32 = 64_053;
const DOMAIN: &str = "cluster.local";
/// For anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// The process, on one CPU.
pub struct Names {
    dir: tempfile::TempDir,
    child: Child,
    pub address: SocketAddr,
    source: Arc<Source>,
    shutdown: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

pub fn name(number: usize) -> String {
    format!("service-{number}.bench.svc.{DOMAIN}")
}

/// Of a Service; `turn` makes it another one.
pub fn address(number: usize, turn: usize) -> Ipv4Addr {
    let offset = u32::try_from(number + turn * SERVICES).unwrap_or_default();
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + offset)
}

impl Names {
    /// # Errors
    /// When the process does not answer.
    pub fn start(cpu: usize) -> Result<Names> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let (run, data) = (dir.path().join("run"), dir.path().join("data"));
        for folder in [run.join("dns"), data.join("dns")] {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
        let address = datagrams.local_addr()?;
        let listeners =
            Arc::new(Listeners { datagrams: vec![datagrams], streams: TcpListener::bind(address)? });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (source, shutdown) = (Arc::new(Source::default()), CancellationToken::new());
        let socket = {
            let _in_runtime = runtime.enter();
            tokio::net::UnixListener::bind(run.join("dns/feed.sock")).context("the agent's socket")?
        };
        // The process gives root up: it gets what is its own.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
        for own in [run.join("dns"), run.join("dns/feed.sock")] {
            chown(&own, Some(UID), Some(UID)).with_context(|| format!("hand over {}", own.display()))?;
        }
        runtime.spawn(source.clone().serve(socket, listeners, UID, shutdown.clone()));
        let program =
            std::env::var("SKERRY_BIN_DIR").map_or_else(|_| paths::target().join("release"), Into::into);
        let mut command = on_cpu(cpu, &Path::new(&program).join("skerry"));
        let child = command
            .args([
                "dns",
                "--dns-metrics-port",
                "0",
                "--resolv-conf",
                "/dev/null",
                "--dns-uid",
                &UID.to_string(),
            ])
            .arg("--run-dir")
            .arg(&run)
            .arg("--data-dir")
            .arg(&data)
            .stdin(Stdio::null())
            .spawn()
            .context("start skerry dns")?;
        let names = Names { dir, child, address, source, shutdown, _runtime: runtime };
        Ok(names)
    }

    /// Says that there are so many Services, and waits until the last one is answered.
    ///
    /// # Errors
    /// When it is not.
    pub fn fill(&self) -> Result<()> {
        for number in 0..SERVICES {
            self.say(number, 0);
        }
        (0..KINDS).for_each(|kind| self.source.listed(u8::try_from(kind).unwrap_or_default(), |_| true));
        let until = Instant::now() + PATIENCE;
        for number in [0, SERVICES / 2, SERVICES - 1] {
            while self.ask(number)? != Some(address(number, 0)) {
                ensure!(Instant::now() < until, "{} is not answered", name(number));
            }
        }
        Ok(())
    }

    pub fn say(&self, number: usize, turn: usize) {
        let place = Place::Addresses([address(number, turn).into()].into());
        let port = Port { name: "http".into(), protocol: Protocol::Tcp, port: 80 };
        let service = Service { place, ports: [port].into() };
        self.source.apply(Change::Service(format!("bench/service-{number}").into(), Some(service)));
    }

    /// The address that is answered for a Service's name.
    ///
    /// # Errors
    /// When nothing is.
    pub fn ask(&self, number: usize) -> Result<Option<Ipv4Addr>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
        socket.connect(self.address)?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.send(&question(&name(number))?)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).context("wait for an answer")?;
        // The last four bytes of an answer without EDNS are the address; a name that is not there has none.
        let has_one = answer[6..8] == [0, 1];
        let last = answer[..length].last_chunk::<4>().filter(|_| has_one);
        Ok(last.map(|octets| Ipv4Addr::from(*octets)))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("end skerry dns in {}: {error}", self.dir.path().display());
        }
    }
}

/// A question for an A record (RFC 1035 section 4.1).
///
/// # Errors
/// When it is no name.
pub fn question(name: &str) -> Result<Vec<u8>> {
    let name = Name::from_ascii(name).context("a name")?;
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.iter() {
        bytes.push(u8::try_from(label.len())?);
        bytes.extend(label);
    }
    bytes.extend([0, 0, 1, 0, 1]);
    Ok(bytes)
}

/// A command that runs on one CPU.
pub fn on_cpu(cpu: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}
