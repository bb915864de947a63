//! Packets per second of the balancer's program in the driver, as a share of a program that only sends each
//! packet back (`XDP_TX`).
//!
//! Two machines on cables of the lab's bridge. The kernel makes the frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) at
//! the bridge's end of a cable and drops there what comes back, both by small programs of ours: all on one
//! core, so that making and dropping are a part of either figure.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use proxy_abi::{Counter, Reason};
use skerry_kernel::{Instruction, Link, PerCpuMap, Program, XdpMode, ifindex, instruction, program_type};
use skerry_lab::{Daemon, Lab, Netns, Node, paths};

use crate::{Options, filled::until_works, probe, row::Row};

const ROUNDS: usize = 25;
const FRAMES: u32 = 300_000;
/// Measurements that may be repeated because frames were lost.
const REPEATED: u32 = 30;
/// As many as a veth's ring holds in any case.
const BATCH: u32 = 64;
const BACKENDS: u8 = 16;
/// Last byte of the first backend's address, and of the virtual one.
const FIRST_BACKEND: u8 = 200;
const VIP: u8 = 250;
const PORT: u16 = 80;
const LIMIT: Duration = Duration::from_secs(20);
const CONFIG: &str = "/run/lb.yaml";
/// `enum xdp_action`.
const DROP: i32 = 1;
pub const PASS: i32 = 2;
const SEND_BACK: i32 = 3;

#[derive(Clone, Copy, PartialEq)]
enum Flows {
    /// 512 clients in turn.
    Known,
    /// Each packet is another client's.
    New,
}

/// # Errors
/// When the balancer does not start, or the kernel does not know live frames (5.18).
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::for_test()?;
    let wire = Netns::existing(&format!("{}-net", lab.name()));
    let (balancer, plain) = (lab.node("lb")?, lab.node("plain")?);
    let sides = [
        Side::new(&wire, &balancer, lab.subnet().host(VIP))?,
        Side::new(&wire, &plain, lab.subnet().host(VIP))?,
    ];
    let code = send_back();
    let program = Program::load("send_back", program_type::XDP, 0, &code)?;
    let attach = || Link::attach_xdp(program.fd(), ifindex("eth0")?, XdpMode::Native);
    let _plain = plain.netns().run(attach)??;
    let mut daemon = start(&lab, &balancer)?;

    let (rounds, frames) = if options.quick { (3, FRAMES / 10) } else { (ROUNDS, FRAMES) };
    let mut rows = Vec::new();
    let mut again = REPEATED;
    for (flows, case) in [(Flows::Known, "512 flows"), (Flows::New, "each packet a new flow")] {
        for side in &sides {
            until_works(LIMIT, || side.rate(&wire, flows, BATCH * 4)).with_context(|| daemon.tail(20))?;
        }
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for step in 0..2 {
                let which = (round + step) % 2;
                let rate = loop {
                    match sides[which].rate(&wire, flows, frames) {
                        // The ring between the two ends ran over before a program saw the frames: the kernel
                        // had moved its reader to a thread that waits for this one.
                        Err(_) if again > 0 => again -= 1,
                        rate => break rate.with_context(|| counted(&balancer))?,
                    }
                };
                rates[which].push(rate);
            }
        }
        let [ours, bare] = rates;
        rows.push(Row::of_pairs(
            "P15",
            &format!("balanced, {case}"),
            "packets/s",
            &ours,
            &bare,
            "a bare XDP_TX program",
        ));
    }
    daemon.stop(Duration::from_secs(5))?;
    balancer.sh(&format!("{} lb --remove", paths::binary("skerry")?.display()))?;
    Ok(rows)
}

/// What the balancer has counted so far, for whom a measurement failed.
fn counted(balancer: &Node) -> String {
    let read = || -> Result<String> {
        let path = balancer.outside("/sys/fs/bpf/skerry-lb/maps/COUNTERS")?;
        let counters = PerCpuMap::<u32, Counter>::open(&path)?;
        let mut text = String::from("counted by the balancer:");
        for reason in Reason::ALL {
            let cpus = counters.lookup(&u32::from(*reason as u8))?.unwrap_or_default();
            let packets: u64 = cpus.iter().map(|cpu| cpu.packets).sum();
            if packets > 0 {
                text += &format!(" {} {packets}", reason.label());
            }
        }
        Ok(text)
    };
    read().unwrap_or_else(|error| format!("the balancer's counters: {error:#}"))
}

/// The bridge's end of a machine's cable.
struct Side {
    device: String,
    ifindex: u32,
    known: Program,
    new: Program,
    packet: Vec<u8>,
    /// Drops what comes back.
    _drops: Link,
}

impl Side {
    fn new(wire: &Netns, node: &Node, vip: Ipv4Addr) -> Result<Side> {
        let packet = packet(vip)?;
        let load = |flows| Program::load("makes_frames", program_type::XDP, 0, &maker(&packet, flows));
        let (known, new) = (load(Flows::Known)?, load(Flows::New)?);
        let drops = Program::load("drops", program_type::XDP, 0, &returns(DROP))?;
        let device = node.name().to_owned();
        let (ifindex, link) = wire.run(|| -> Result<_> {
            let ifindex = ifindex(&device)?;
            Ok((ifindex, Link::attach_xdp(drops.fd(), ifindex, XdpMode::Native)?))
        })??;
        Ok(Side { device, ifindex, known, new, packet, _drops: link })
    }

    /// Packets per second that came back.
    fn rate(&self, wire: &Netns, flows: Flows, frames: u32) -> Result<f64> {
        let maker = if flows == Flows::Known { &self.known } else { &self.new };
        let before = self.dropped(wire)?;
        let took = wire.run(|| -> Result<Duration> {
            probe::pin(0)?;
            let begun = Instant::now();
            maker.live_frames(&self.packet, self.ifindex, frames, BATCH)?;
            Ok(begun.elapsed())
        })??;
        let back = self.dropped(wire)? - before;
        // A packet for which no port is free is dropped; a way that loses more is none.
        ensure!(
            back * 10 > u64::from(frames) * 9,
            "{back} of {frames} frames came back from {}",
            self.device
        );
        Ok(back as f64 / took.as_secs_f64())
    }

    fn dropped(&self, wire: &Netns) -> Result<u64> {
        let statistics = wire.sh(&format!("ethtool -S {}", self.device))?;
        let counts = statistics.lines().filter_map(|line| line.split_once("_xdp_drops:"));
        counts.map(|(_, count)| count.trim().parse::<u64>().with_context(|| format!("read {count:?}"))).sum()
    }
}

fn start(lab: &Lab, node: &Node) -> Result<Daemon> {
    let vip = lab.subnet().host(VIP);
    let netns = node.netns();
    netns.ip(&format!("address add {vip}/32 dev lo"))?;
    let mut backends = Vec::new();
    for number in 0..BACKENDS {
        let ip = lab.subnet().host(FIRST_BACKEND + number);
        netns.ip(&format!("neigh add {ip} lladdr 02:00:00:00:01:{number:02x} dev eth0 nud permanent"))?;
        backends.push(format!("{{address: {ip}, port: 8080}}"));
    }
    let text = format!(
        "vips:\n- {{address: {vip}, port: {PORT}, protocol: UDP, backends: [{}]}}\n",
        backends.join(", ")
    );
    let path = node.outside(CONFIG)?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    let args = ["lb", "--config", CONFIG, "--device", "eth0", "--xdp-mode", "native"];
    node.spawn("lb", paths::binary("skerry")?, &args)
}

/// A datagram of the smallest frame.
fn packet(vip: Ipv4Addr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([198, 18, 0, 1], vip.octets(), 64)
        .udp(5000, PORT);
    let mut packet = Vec::new();
    builder.write(&mut packet, &[0; 18]).context("make a packet")?;
    Ok(packet)
}

/// Eight bytes of a `struct bpf_insn` by their meaning (linux/bpf.h, linux/bpf_common.h).
mod code {
    pub const MOV_IMM: u8 = 0xb7;
    pub const MOV: u8 = 0xbf;
    pub const ADD_IMM: u8 = 0x07;
    pub const AND_IMM: u8 = 0x57;
    pub const OR_IMM: u8 = 0x47;
    pub const LOAD_WORD: u8 = 0x61;
    pub const LOAD_HALF: u8 = 0x69;
    pub const STORE_WORD: u8 = 0x63;
    pub const STORE_HALF: u8 = 0x6b;
    pub const STORE_WORD_IMM: u8 = 0x62;
    pub const JUMP_GREATER: u8 = 0x2d;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}
const GET_PRANDOM_U32: i32 = 7;
/// Where the source's address and port lie in a packet without IP options.
const SOURCE: i16 = 26;
const SOURCE_PORT: i16 = 34;

pub fn returns(value: i32) -> [Instruction; 2] {
    [instruction(code::MOV_IMM, 0, 0, 0, value), instruction(code::EXIT, 0, 0, 0, 0)]
}

/// Writes the whole packet (frames are used again), with another client each time, and sends it.
fn maker(packet: &[u8], flows: Flows) -> Vec<Instruction> {
    let mut program =
        vec![instruction(code::MOV, 6, 1, 0, 0), instruction(code::CALL, 0, 0, 0, GET_PRANDOM_U32)];
    let words = packet.chunks_exact(4);
    let body = words.enumerate().map(|(index, word)| {
        let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        instruction(code::STORE_WORD_IMM, 2, 0, (index * 4) as i16, word)
    });
    // Bytes lie as in memory: 512 ports of 16384 and more, or the lower three bytes of a source of
    // 10.0.0.0/8.
    let (mask, bits, store, at) = match flows {
        Flows::Known => (0x03ff, 0x0040, code::STORE_HALF, SOURCE_PORT),
        Flows::New => (i32::from_ne_bytes([0, 255, 255, 255]), 10, code::STORE_WORD, SOURCE),
    };
    let mut tail: Vec<Instruction> = body.collect();
    tail.extend([
        instruction(code::AND_IMM, 0, 0, 0, mask),
        instruction(code::OR_IMM, 0, 0, 0, bits),
        instruction(store, 2, 0, at, 0),
    ]);
    tail.extend(returns(SEND_BACK));
    program.extend(in_bounds(6, packet.len() as i32, tail.len() as i16));
    program.extend(tail);
    program.extend(returns(DROP));
    program
}

/// Swaps the two Ethernet addresses and sends the packet back: what the barest balancer would do.
fn send_back() -> Vec<Instruction> {
    let mut tail = Vec::new();
    for (offset, register) in [(0, 3), (2, 4), (4, 5)] {
        tail.extend([
            instruction(code::LOAD_HALF, register, 2, offset, 0),
            instruction(code::LOAD_HALF, 0, 2, offset + 6, 0),
            instruction(code::STORE_HALF, 2, 0, offset, 0),
            instruction(code::STORE_HALF, 2, register, offset + 6, 0),
        ]);
    }
    tail.extend(returns(SEND_BACK));
    let mut program = in_bounds(1, 14, tail.len() as i16).to_vec();
    program.extend(tail);
    program.extend(returns(DROP));
    program
}

/// The packet's beginning to register 2; past the next `skip` instructions if it is shorter than `length`.
fn in_bounds(context: u8, length: i32, skip: i16) -> [Instruction; 5] {
    [
        instruction(code::LOAD_WORD, 2, context, 0, 0),
        instruction(code::LOAD_WORD, 3, context, 4, 0),
        instruction(code::MOV, 4, 2, 0, 0),
        instruction(code::ADD_IMM, 4, 0, 0, length),
        instruction(code::JUMP_GREATER, 4, 3, skip, 0),
    ]
}
