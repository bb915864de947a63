//! `skerry trace`: the very code of the kernel programs over a made-up packet and a copy of the live maps.
//! Nothing is written and nothing is sent.

mod packet;
mod tables;

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use proxy_abi::{Addr, Be16, Reason, endpoint_flag, proto};
use proxy_datapath::{
    Action, Scratch, Shape, Socket, SocketVerdict, Tables as _, Verdict, from_pod, from_uplink, parse,
    sock_connect, to_overlay, to_pod, to_uplink,
};

use self::{packet::Frame, tables::Snapshot};
use super::{Maps, api::ApiOptions, names};

#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Who sends: an address, or NAMESPACE/NAME of a pod
    #[arg(long)]
    from: String,
    /// What it dials, ADDRESS:PORT
    #[arg(long)]
    to: SocketAddr,
    #[arg(long = "proto", value_enum, default_value = "tcp")]
    protocol: Protocol,
    /// The sender's port
    #[arg(long, default_value_t = 40_000)]
    from_port: u16,
    #[arg(long, default_value = proxy_abi::PIN_ROOT)]
    pin_root: std::path::PathBuf,
    #[command(flatten)]
    api: ApiOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

pub fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    let from: IpAddr = match (args.from.parse(), args.from.split_once('/')) {
        (Ok(ip), _) => ip,
        (Err(_), Some((namespace, name))) => args.api.pod_address(namespace, name)?,
        (Err(_), None) => bail!("--from {}: write an address, or NAMESPACE/NAME of a pod", args.from),
    };
    ensure!(from.is_ipv4() == args.to.is_ipv4(), "{from} and {} are of two families", args.to);
    let snapshot = Snapshot::read(&Maps::open(&args.pin_root)?)?;
    ensure!(snapshot.facts().is_some(), "no agent has written its configuration yet: start `skerry proxy`");
    let number = if args.protocol == Protocol::Udp { proto::UDP } else { proto::TCP };
    let way = Way { snapshot: &snapshot, number };
    let ends = way.walk(SocketAddr::new(from, args.from_port), args.to)?;
    Ok(if ends { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Way<'a> {
    snapshot: &'a Snapshot,
    number: u8,
}

impl Way<'_> {
    /// Whether the packet gets on.
    fn walk(&self, from: SocketAddr, to: SocketAddr) -> anyhow::Result<bool> {
        let source = self.snapshot.endpoint(&from.ip().into()).copied();
        // That look is ours, not the datapath's.
        drop(self.snapshot.decisions());
        let flags = source.map_or(0, |source| source.flags);
        if flags & endpoint_flag::POD != 0 {
            let ifindex = source.map_or(0, |source| source.ifindex);
            println!("{from} is a pod of this node, behind device {}", device(ifindex));
            let Some(to) = self.connect(to, false) else { return Ok(false) };
            let link = self.snapshot.link(ifindex).copied().unwrap_or_default();
            return self.hook("from_pod", from, to, link.mac, |frame, tables, s| {
                from_pod(frame, tables, s, ifindex)
            });
        }
        if flags != 0 {
            println!("{from} is an address of this node");
            let Some(to) = self.connect(to, true) else { return Ok(false) };
            return self.leave_node(from, to);
        }
        println!("{from} is outside of this node: it comes in through an uplink");
        self.hook("from_uplink", from, to, [0; 6], from_uplink)
    }

    /// The socket hook at connect(2), in the node's own namespace or a pod's. `None`: refused.
    fn connect(&self, to: SocketAddr, is_host: bool) -> Option<SocketAddr> {
        let facts = self.snapshot.facts()?;
        // Any other namespace is a pod's.
        let netns = facts.host_netns_cookie.wrapping_add(u64::from(!is_host));
        let mut socket =
            MadeUp { addr: to.ip().into(), port: Be16::new(to.port()), number: self.number, netns };
        println!("connect({to}):");
        let verdict = sock_connect(&mut socket, self.snapshot);
        self.decisions();
        let now = SocketAddr::new(socket.addr.to_ip(), socket.port.get());
        match verdict {
            SocketVerdict::Refuse => {
                println!("  → ECONNREFUSED, no packet is sent");
                None
            }
            SocketVerdict::Allow if now == to => {
                println!("  → as it is");
                Some(to)
            }
            SocketVerdict::Allow => {
                println!("  → the socket is connected to {now}");
                Some(now)
            }
        }
    }

    /// What the stack sends meets the hook of the device that its routes name.
    fn leave_node(&self, from: SocketAddr, to: SocketAddr) -> anyhow::Result<bool> {
        let facts = *self.snapshot.facts().context("no configuration")?;
        let out = packet::way_out(to.ip());
        println!("the kernel's route leads to device {}", device(out));
        if out != 0 && out == facts.overlay_ifindex {
            return self.hook("to_overlay", from, to, [0; 6], |frame, tables, s| {
                to_overlay(frame, tables, s, false)
            });
        }
        if self.snapshot.uplink(out).is_some() {
            return self
                .hook("to_uplink", from, to, [0; 6], |frame, tables, s| to_uplink(frame, tables, s, out));
        }
        if self.snapshot.link(out).is_some() {
            return self.hook("to_pod", from, to, [0; 6], to_pod);
        }
        println!("  → no program of ours stands there");
        Ok(true)
    }

    fn hook(
        &self,
        name: &str,
        from: SocketAddr,
        to: SocketAddr,
        mac: [u8; 6],
        run: impl FnOnce(&mut Frame, &Snapshot, &mut Scratch) -> Verdict,
    ) -> anyhow::Result<bool> {
        println!("{name}: {} {from} → {to}", names::protocol(self.number));
        let mut frame = Frame::first(from, to, self.number, mac);
        let mut scratch = Scratch::default();
        let verdict = run(&mut frame, self.snapshot, &mut scratch);
        self.decisions();
        let Scratch { mut view, mut head, .. } = Scratch::default();
        let is_balanced = verdict.action == Action::TakenIn && verdict.reason == Reason::Passed;
        let is_answered = matches!(verdict.action, Action::Answer | Action::TakenIn) && !is_balanced;
        if let Ok(Shape::Ip) = parse(&frame, &mut view, &mut head) {
            let tuple = view.tuple;
            let now = (names::socket(tuple.src, tuple.sport), names::socket(tuple.dst, tuple.dport));
            if now != (from.to_string(), to.to_string()) && !is_answered {
                println!("  it becomes {} → {}", now.0, now.1);
            }
        }
        if scratch.direct && verdict.action == Action::Tunnel {
            let backend = names::socket(scratch.to.dst, scratch.to.dport);
            println!("  it stays as it is, for {backend}, whose node answers the client itself");
        }
        println!("  → {}", explain(&verdict));
        Ok(!verdict.reason.is_drop() && !is_answered)
    }

    fn decisions(&self) {
        self.snapshot.decisions().iter().for_each(|line| println!("  {line}"));
    }
}

fn explain(verdict: &Verdict) -> String {
    let what = match verdict.action {
        Action::Pass => "handed to the kernel's own stack".to_owned(),
        Action::Drop => return format!("dropped, {}: {}", verdict.reason.label(), verdict.reason.text()),
        Action::Deliver => format!("into the pod behind device {}", device(verdict.ifindex)),
        Action::Tunnel | Action::Keyed => format!("through the tunnel to node {}", verdict.node),
        Action::Out | Action::Addressed => format!("out of device {}", device(verdict.ifindex)),
        Action::TakenIn if verdict.reason == Reason::Passed => {
            "in again by the device that it was to leave by, where it is balanced".to_owned()
        }
        Action::Answer | Action::TakenIn => "answered at once with RST or an ICMP message".to_owned(),
    };
    format!("{what} ({})", verdict.reason.label())
}

fn device(index: u32) -> String {
    match index {
        0 => "none".to_owned(),
        index => skerry_kernel::ifname(index).unwrap_or_else(|_| format!("#{index}")),
    }
}

struct MadeUp {
    addr: Addr,
    port: Be16,
    number: u8,
    netns: u64,
}

impl Socket for MadeUp {
    fn address(&self) -> (Addr, Be16) {
        (self.addr, self.port)
    }

    fn set_address(&mut self, addr: &Addr, port: Be16) {
        (self.addr, self.port) = (*addr, port);
    }

    fn protocol(&self) -> u8 {
        self.number
    }

    fn cookie(&self) -> u64 {
        0
    }

    fn netns_cookie(&self) -> u64 {
        self.netns
    }
}
