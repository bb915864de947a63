//! P12: questions a second on one core, beside unbound with the same names as local data; dnsperf asks from
//! another core.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use skerry_lab::debian;

use crate::{
    Options,
    names::{Names, SERVICES, address, name, on_cpu, question},
    process::cpu_ns,
    row::Row,
};

const PACKAGES: [&str; 2] = ["unbound", "dnsperf"];
const PAIRS: usize = 7;
const SECONDS: &str = "5";
/// Who answers, and who asks.
const CPUS: (usize, usize) = (0, 1);

/// # Errors
/// When one of them does not answer, or answers wrong.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let missing = debian::missing(&PACKAGES)?;
    debian::install(&missing)?;
    let dir = tempfile::tempdir().context("make a folder")?;
    let questions = dir.path().join("questions");
    let lines: String =
        (0..SERVICES).map(|number| format!("{} A\n", name(number * 7919 % SERVICES))).collect();
    fs::write(&questions, lines).context("write the questions")?;
    let ours = Names::start(CPUS.0)?;
    ours.fill()?;
    let peer = Unbound::start(dir.path())?;
    let (pairs, seconds) = if options.quick { (1, "1") } else { (PAIRS, SECONDS) };
    let (mut mine, mut theirs): (Vec<Rate>, Vec<Rate>) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        mine.push(rate(ours.pid(), ours.address, &questions, seconds)?);
        theirs.push(rate(peer.child.id(), peer.address, &questions, seconds)?);
    }
    let row = |case: &str, unit: &str, of: fn(&Rate) -> f64| {
        let figures = |rates: &[Rate]| rates.iter().map(of).collect::<Vec<f64>>();
        Row::of_pairs("P12", case, unit, &figures(&mine), &figures(&theirs), "unbound")
    };
    Ok(vec![
        row("answers for 10,000 Services' names, one core", "1/s", |rate| rate.a_second),
        row("answers for a second of the server's CPU", "1/s", |rate| rate.a_cpu_second),
    ])
}

/// What a server did with its time, and what it took of it: somebody else may want the core, too.
struct Rate {
    a_second: f64,
    a_cpu_second: f64,
}

fn rate(pid: u32, server: SocketAddr, questions: &Path, seconds: &str) -> Result<Rate> {
    let mut dnsperf = on_cpu(CPUS.1, Path::new("dnsperf"));
    dnsperf.args([
        "-s",
        &server.ip().to_string(),
        "-p",
        &server.port().to_string(),
        "-l",
        seconds,
        "-q",
        "200",
    ]);
    let before = cpu_ns(pid)?;
    let text = skerry_lab::output(dnsperf.arg("-d").arg(questions))?;
    let took_s = (cpu_ns(pid)? - before) as f64 / 1e9;
    let figure = |label: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|line| line.split_whitespace().next());
        let word = word.with_context(|| format!("no {label} in {text}"))?;
        word.parse().with_context(|| format!("read {label} {word}"))
    };
    ensure!(text.contains("NOERROR") && !text.contains("NXDOMAIN"), "wrong answers: {text}");
    let answers = figure("Queries completed:")?;
    Ok(Rate { a_second: figure("Queries per second:")?, a_cpu_second: answers / took_s })
}

struct Unbound {
    child: Child,
    address: SocketAddr,
}

impl Unbound {
    fn start(dir: &Path) -> Result<Unbound> {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let mut config = format!(
            "server:\n num-threads: 1\n interface: 127.0.0.1\n port: {}\n do-daemonize: no\n chroot: \"\"\n username: \"\"\n \
             pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n access-control: 127.0.0.0/8 allow\n \
             local-zone: \"cluster.local.\" static\n",
            port.port()
        );
        for number in 0..SERVICES {
            writeln!(config, " local-data: \"{}. 5 IN A {}\"", name(number), address(number, 0))?;
        }
        let path = dir.join("unbound.conf");
        fs::write(&path, config).context("write unbound's configuration")?;
        let mut unbound = on_cpu(CPUS.0, Path::new("unbound"));
        let child = unbound.arg("-d").arg("-c").arg(&path).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let peer = Unbound { child: child.context("start unbound")?, address: port };
        let until = Instant::now() + Duration::from_secs(20);
        let probe = UdpSocket::bind("127.0.0.1:0")?;
        probe.connect(port)?;
        probe.set_read_timeout(Some(Duration::from_millis(100)))?;
        let question = question(&name(0))?;
        while probe.send(&question).is_err() || probe.recv(&mut [0; 512]).is_err() {
            ensure!(Instant::now() < until, "unbound does not answer");
        }
        Ok(peer)
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("end unbound: {error}");
        }
    }
}
