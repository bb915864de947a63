//! `skerry bpf WHAT`: the proxy's maps as they are.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use proxy_abi::{
    Addr, Counter, Endpoint, Facts, Flow, Frontend, FrontendKey, LOST_EVENTS, Link, Peer, PodCidr,
    PodCidrKey, Prefix, Reason, Slot, SocketKey, SocketOrigin, Tuple, Uplink, map, pod_cidr_flag, proto,
    slot_flag, socket_flag,
};
use serde_json::{Value, json};
use skerry_kernel::PerCpuMap;

use super::{
    Maps, Show,
    names::{
        address, endpoint_flags, flow_flags, flow_state, frontend_flags, frontend_kind, mac, protocol, socket,
    },
    sheet::Sheet,
};

#[derive(Clone, Debug, Args)]
pub struct BpfArgs {
    #[arg(value_enum)]
    pub what: What,
    #[command(flatten)]
    pub show: Show,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum What {
    /// Facts of this node
    Config,
    /// What clients dial
    Frontends,
    /// Backends, by their place
    Slots,
    /// What answers to an address on this node
    Endpoints,
    /// Who may speak on a pod's device
    Links,
    /// What leads out of the node
    Uplinks,
    /// Network namespaces whose sockets are left alone
    LeftOut,
    /// Which node a range of pods belongs to
    PodCidrs,
    /// Nodes that may send through the tunnel
    Peers,
    /// Tracked flows
    Flows,
    /// Sockets whose destination was swapped
    Sockets,
    /// Packets by what became of them
    Counters,
}

pub fn run(args: BpfArgs) -> anyhow::Result<ExitCode> {
    let maps = Maps::open(&args.show.pin_root)?;
    let sheet = match args.what {
        What::Config => config(&maps),
        What::Frontends => frontends(&maps)?.sorted(),
        What::Slots => slots(&maps)?,
        What::Endpoints => endpoints(&maps)?.sorted(),
        What::Links => links(&maps)?,
        What::Uplinks => uplinks(&maps)?,
        What::LeftOut => left_out(&maps)?.sorted(),
        What::PodCidrs => pod_cidrs(&maps)?.sorted(),
        What::Peers => peers(&maps)?.sorted(),
        What::Flows => flows(&maps)?.sorted(),
        What::Sockets => sockets(&maps)?.sorted(),
        What::Counters => counters(&maps)?,
    };
    sheet.print(args.show.output);
    Ok(ExitCode::SUCCESS)
}

fn config(maps: &Maps) -> Sheet {
    let shown = |ranges: &[Prefix]| {
        let filled = ranges.iter().take_while(|range| range.len != 0);
        let filled: Vec<String> = filled.map(|range| cidr(range.addr, range.len)).collect();
        json!(filled.join(","))
    };
    // Field by field: one that is new does not compile until it is shown.
    let Facts {
        abi_version,
        flags,
        host_netns_cookie,
        node_v4,
        node_v6,
        router_v4,
        router_v6,
        service_ranges,
        balancers,
        uplink_ifindex,
        overlay_ifindex,
        vni,
        pod_mtu,
        nodeport_min,
        nodeport_max,
        snat_min,
        snat_max,
        tcp_syn_s,
        tcp_established_s,
        tcp_closing_s,
        udp_s,
        udp_stream_s,
        icmp_s,
        tunnel_port,
        reserved: _,
        flow_queue,
    } = maps.facts;
    let mut sheet = Sheet::new(&["fact", "value"]);
    let facts = [
        ("abi-version", json!(abi_version)),
        ("flags", json!(format!("{flags:#x}"))),
        ("host-netns-cookie", json!(host_netns_cookie)),
        ("node-v4", address(node_v4)),
        ("node-v6", address(node_v6)),
        ("router-v4", address(router_v4)),
        ("router-v6", address(router_v6)),
        ("service-ranges", shown(&service_ranges)),
        ("balancers", shown(&balancers)),
        ("uplink-ifindex", json!(uplink_ifindex)),
        ("overlay-ifindex", json!(overlay_ifindex)),
        ("vni", json!(vni)),
        ("tunnel-port", json!(tunnel_port)),
        ("pod-mtu", json!(pod_mtu)),
        ("node-ports", json!(format!("{nodeport_min}-{nodeport_max}"))),
        ("snat-ports", json!(format!("{snat_min}-{snat_max}"))),
        ("tcp-syn-s", json!(tcp_syn_s)),
        ("tcp-established-s", json!(tcp_established_s)),
        ("tcp-closing-s", json!(tcp_closing_s)),
        ("udp-s", json!(udp_s)),
        ("udp-stream-s", json!(udp_stream_s)),
        ("icmp-s", json!(icmp_s)),
        ("flow-queue", json!(flow_queue)),
    ];
    facts.into_iter().for_each(|(name, value)| sheet.row(vec![json!(name), value]));
    sheet
}

fn uplinks(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["device", "ifindex", "v4", "v6"]);
    for (ifindex, uplink) in maps.entries::<u32, Uplink>(map::UPLINKS)? {
        sheet.row(vec![json!(device(ifindex)), json!(ifindex), address(uplink.v4), address(uplink.v6)]);
    }
    Ok(sheet)
}

fn left_out(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["netns-cookie"]);
    for (cookie, _) in maps.entries::<u64, u32>(map::LEFT_OUT)? {
        sheet.row(vec![json!(cookie)]);
    }
    Ok(sheet)
}

/// `len` counts bits of the 128-bit form.
fn cidr(addr: Addr, len: u32) -> String {
    format!("{addr}/{}", if addr.is_v4() { len.saturating_sub(96) } else { len })
}

fn frontends(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&[
        "address",
        "port",
        "protocol",
        "kind",
        "service",
        "generation",
        "outside",
        "inside",
        "affinity-s",
        "flags",
    ]);
    for (key, value) in maps.entries::<FrontendKey, Frontend>(map::FRONTENDS)? {
        let window = |first: u32, count: u32| json!(format!("{first}+{count}"));
        sheet.row(vec![
            address(key.addr),
            json!(key.port.get()),
            json!(protocol(key.proto)),
            json!(frontend_kind(key.kind)),
            json!(value.service_id),
            json!(value.generation),
            window(value.outside.first, value.outside.count),
            window(value.inside.first, value.inside.count),
            json!(value.affinity_s),
            frontend_flags(value.flags),
        ]);
    }
    Ok(sheet)
}

fn slots(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["index", "backend", "service", "generation", "flags"]);
    for (index, slot) in maps.entries::<u32, Slot>(map::SLOTS)? {
        if slot.service_id == 0 {
            continue;
        }
        let flags: &[&str] = if slot.flags & slot_flag::TERMINATING != 0 { &["terminating"] } else { &[] };
        sheet.row(vec![
            json!(index),
            json!(socket(slot.addr, slot.port)),
            json!(slot.service_id),
            json!(slot.generation),
            json!(flags),
        ]);
    }
    Ok(sheet)
}

fn endpoints(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["address", "device", "mac", "flags"]);
    for (addr, value) in maps.entries::<Addr, Endpoint>(map::ENDPOINTS)? {
        let has_mac = value.mac != [0; 6];
        let mac = if has_mac { json!(mac(value.mac)) } else { Value::Null };
        sheet.row(vec![address(addr), device(value.ifindex), mac, endpoint_flags(value.flags)]);
    }
    Ok(sheet)
}

fn links(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["device", "ifindex", "v4", "v6", "mac"]);
    for (index, link) in maps.entries::<u32, Link>(map::LINKS)? {
        sheet.row(vec![
            device(index),
            json!(index),
            address(link.v4),
            address(link.v6),
            json!(mac(link.mac)),
        ]);
    }
    Ok(sheet)
}

/// Its name, in the network namespace that we run in.
fn device(index: u32) -> Value {
    match index {
        0 => Value::Null,
        index => json!(skerry_kernel::ifname(index).unwrap_or_else(|_| format!("#{index}"))),
    }
}

fn pod_cidrs(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["range", "node", "local"]);
    for (key, value) in maps.entries::<PodCidrKey, PodCidr>(map::POD_CIDRS)? {
        let is_local = value.flags & pod_cidr_flag::LOCAL != 0;
        sheet.row(vec![json!(cidr(key.addr, key.prefix_len)), address(value.node), json!(is_local)]);
    }
    Ok(sheet)
}

fn peers(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["node"]);
    for (addr, _) in maps.entries::<Addr, u32>(map::TUNNEL_PEERS)? {
        sheet.row(vec![address(addr)]);
    }
    Ok(sheet)
}

fn flows(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&[
        "protocol",
        "from",
        "to",
        "becomes-from",
        "becomes-to",
        "service",
        "state",
        "packets",
        "seen-s",
        "flags",
    ]);
    for (key, flow) in maps.entries::<Tuple, Flow>(map::FLOWS)? {
        sheet.row(vec![
            json!(protocol(key.proto)),
            json!(socket(key.src, key.sport)),
            json!(socket(key.dst, key.dport)),
            json!(socket(flow.to.src, flow.to.sport)),
            json!(socket(flow.to.dst, flow.to.dport)),
            json!(flow.service_id),
            json!(flow_state(flow.state)),
            json!(flow.packets),
            json!(flow.seen_s),
            flow_flags(flow.flags),
        ]);
    }

    Ok(sheet)
}

fn sockets(maps: &Maps) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet::new(&["protocol", "service-address", "backend", "service", "cookie", "kind"]);
    for (key, origin) in maps.entries::<SocketKey, SocketOrigin>(map::SOCKETS)? {
        let (one, other) = (socket(key.addr, key.port), socket(origin.addr, origin.port));
        // By the service's address: the backend that its datagrams stick to; by the backend: what getpeername
        // shows.
        let is_choice = origin.flags & socket_flag::CHOICE != 0;
        let (service, backend) = if is_choice { (one, other) } else { (other, one) };
        sheet.row(vec![
            json!(protocol(key.proto)),
            json!(service),
            json!(backend),
            json!(origin.service_id),
            json!(key.cookie),
            json!(if is_choice { "choice" } else { "peer" }),
        ]);
    }
    // A socket's first cookie is 1: 0 is an empty place.
    for (_, peer) in maps.entries::<u32, Peer>(map::PEERS)?.iter().filter(|(_, peer)| peer.cookie != 0) {
        sheet.row(vec![
            json!(protocol(proto::TCP)),
            json!(socket(peer.service, peer.service_port)),
            json!(socket(peer.backend, peer.backend_port)),
            json!(peer.service_id),
            json!(peer.cookie),
            json!("peer"),
        ]);
    }
    Ok(sheet)
}

fn counters(maps: &Maps) -> anyhow::Result<Sheet> {
    let map = PerCpuMap::<u32, Counter>::open(&maps.path(map::COUNTERS)).context("open the counters")?;
    let sum = |index: u32| -> anyhow::Result<(u64, u64)> {
        let cpus = map.lookup(&index).context("read the counters")?.unwrap_or_default();
        Ok(cpus.iter().fold((0, 0), |(packets, bytes), cpu| (packets + cpu.packets, bytes + cpu.bytes)))
    };
    let mut sheet = Sheet::new(&["reason", "packets", "bytes", "drop", "meaning"]);
    for reason in Reason::ALL {
        let (packets, bytes) = sum(u32::from(*reason as u8))?;
        sheet.row(vec![
            json!(reason.label()),
            json!(packets),
            json!(bytes),
            json!(reason.is_drop()),
            json!(reason.text()),
        ]);
    }
    let lost = "drop records lost to a full ring";
    sheet.row(vec![json!("lost_events"), json!(sum(LOST_EVENTS)?.0), Value::Null, json!(false), json!(lost)]);
    Ok(sheet)
}
