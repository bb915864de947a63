//! ADD: in an order in which a kill at any point leaves nothing that DEL does not find, and no packet passes
//! before it is checked: record, pair (down), tables and programs, the pod's end, the host's end up.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, State},
    route::RouteAttribute,
};
use rscni_types::{error::Error as CniError, types, version::SpecVersion};
use serde_json::Value;

use crate::{
    answer,
    conf::{Conf, DEFAULT_MTU, parse_mac},
    datapath::{Datapath, Entry, Hooks},
    del,
    failure::Failure,
    identity,
    netlink::Netlink,
    range::Range,
    request::Attachment,
    state::{Claim, Record, Store},
    veth::{self, Wire},
};

/// How long a new device may take until it is fit to send. Usually it is at once.
const CARRIER_PATIENCE: Duration = Duration::from_secs(1);

pub fn add(conf: &Conf, version: SpecVersion, request: &Attachment) -> Result<Value, Failure> {
    let network = conf.name()?.to_owned();
    let (ranges, requested) = (conf.ranges()?, conf.requested_addresses()?);
    let pod_mac = requested_mac(conf, request)?;
    let pod_mac = pod_mac.unwrap_or_else(|| identity::pod_mac(&request.container_id, &request.ifname));
    let (mtu, previous, hooks) = (conf.mtu()?, conf.previous()?, conf.hooks()?);
    let is_left_out = conf.is_left_out()?;
    let (netns, netns_path) = open_netns(request)?;
    // Before anything is made: without the agent's tables the pod would be cut off.
    let datapath = Datapath::open(&conf.pin_root()?)?;

    let store = Store::open(&conf.state_dir()?, &conf.boot_id_file()?)?;
    let mut record = record(request, network, &netns_path, pod_mac);
    if is_left_out {
        let name = netns_path.display().to_string();
        record.left_out = skerry_kernel::in_netns(netns.as_fd(), &name, skerry_kernel::netns_cookie)??;
    }
    let is_used = |address| datapath.leads_to_pod(address) || leads_to_pod(address);
    let mut claim = store.claim(record, &ranges, &requested, &is_dead, &is_used)?;
    let wire = wire(&claim, pod_mac, mtu.or(agent_mtu(&datapath)).unwrap_or(DEFAULT_MTU), &ranges);
    let done = build(&wire, (&netns, &netns_path), (&datapath, hooks), &store, &mut claim)
        .and_then(|()| answer::result(version, &wire, &netns_path, previous).map_err(Failure::from));
    match &done {
        Ok(_) => {}
        // Nothing of ours was made, and what bears our names is another's.
        Err(Failure::IfnameTaken { .. } | Failure::DeviceTaken { .. }) => store.release(&claim)?,
        Err(_) => {
            // What made the ADD fail is to be told; what of the cleaning fails now a DEL will find.
            let _ = del::remove(conf, &store, &claim);
        }
    }
    done
}

fn requested_mac(conf: &Conf, request: &Attachment) -> Result<Option<[u8; 6]>, Failure> {
    if let Some(mac) = conf.requested_mac()? {
        return Ok(Some(mac));
    }
    let Some(text) = request.args.get("MAC") else { return Ok(None) };
    match parse_mac(text) {
        Some(mac) => Ok(Some(mac)),
        None => Err(CniError::InvalidEnvValue(format!("CNI_ARGS: MAC={text} is no unicast address")).into()),
    }
}

fn open_netns(request: &Attachment) -> Result<(File, PathBuf), Failure> {
    let path = request.netns.clone().ok_or_else(|| CniError::missing_env(&[types::CNI_NETNS]))?;
    let open = |path: &Path| {
        let file = File::open(path).map_err(|source| Failure::Netns { path: path.to_owned(), source })?;
        let there = file.metadata().map_err(|source| Failure::Netns { path: path.to_owned(), source })?;
        Ok::<_, Failure>((file, (there.dev(), there.ino())))
    };
    let (file, pod) = open(&path)?;
    let (_, own) = open(Path::new("/proc/thread-self/ns/net"))?;
    if pod == own {
        return Err(Failure::OwnNetns { path });
    }
    Ok((file, path))
}

fn record(request: &Attachment, network: String, netns: &Path, mac: [u8; 6]) -> Record {
    let pod: BTreeMap<String, String> = request
        .args
        .iter()
        .filter(|(key, _)| key.starts_with("K8S_POD_"))
        .map(|(key, value)| (key.clone(), value.chars().take(300).collect()))
        .collect();
    Record {
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
        network,
        netns: netns.to_owned(),
        host_ifname: identity::host_ifname(&request.container_id, &request.ifname),
        mac: identity::mac_text(mac),
        addresses: Vec::new(),
        pod,
        left_out: 0,
        host_ifindex: 0,
    }
}

/// A pod that nobody will ever send a DEL for: no namespace, no device. Asked only when the pool is full.
fn is_dead(record: &Record) -> bool {
    let gone = |result: Result<u32, skerry_kernel::Error>| result.is_err_and(|e| e.is_not_found());
    !record.netns.exists() && gone(skerry_kernel::ifindex(&record.host_ifname))
}

/// Whether the node's routes lead an address into a pod's device. What can't be asked leads nowhere.
fn leads_to_pod(address: IpAddr) -> bool {
    let asked = Netlink::open().and_then(|mut netlink| netlink.run(&[veth::get_route(address)]));
    asked.into_iter().flatten().flatten().any(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Oif(index) => {
                skerry_kernel::ifname(*index).is_ok_and(|name| identity::is_host_ifname(&name))
            }
            _ => false,
        }),
        _ => false,
    })
}

fn agent_mtu(datapath: &Datapath) -> Option<u32> {
    Some(datapath.facts.pod_mtu).filter(|mtu| *mtu != 0)
}

fn wire(claim: &Claim, pod_mac: [u8; 6], mtu: u32, ranges: &[Range]) -> Wire {
    let record = claim.record.as_ref();
    let (id, ifname) = record.map_or(("", ""), |r| (r.container_id.as_str(), r.ifname.as_str()));
    let router =
        |address: IpAddr| ranges.iter().find(|range| range.serves(address)).map_or(address, Range::router);
    let addresses = record.map(|r| r.addresses.as_slice()).unwrap_or_default();
    Wire {
        host_ifname: identity::host_ifname(id, ifname),
        host_mac: identity::host_mac(id, ifname),
        pod_ifname: ifname.to_owned(),
        pod_mac,
        mtu,
        addresses: addresses.iter().map(|address| (*address, router(*address))).collect(),
    }
}

fn build(
    wire: &Wire,
    (netns, netns_path): (&File, &Path),
    (datapath, hooks): (&Datapath, Hooks),
    store: &Store,
    claim: &mut Claim,
) -> Result<(), Failure> {
    let mut host = Netlink::open()?;
    match host.run(&[veth::create(wire, netns.as_raw_fd())]) {
        Err(error) if error.errno() == Some(libc::EEXIST) => return Err(taken(wire)),
        result => result?,
    };
    let ifindex = skerry_kernel::ifindex(&wire.host_ifname)?;
    store.note_ifindex(claim, ifindex)?;
    let addresses = wire.addresses.iter().map(|(address, _)| *address).collect();
    let left_out = claim.record.as_ref().map_or(0, |record| record.left_out);
    datapath.publish(&Entry { ifindex, mac: wire.pod_mac, addresses, left_out })?;
    datapath.attach(hooks, ifindex, &wire.host_ifname)?;
    let mut pod =
        skerry_kernel::in_netns(netns.as_fd(), &netns_path.display().to_string(), || pod_side(wire))??;
    host.run(&veth::host_side(wire, ifindex))?;
    for (address, router) in &wire.addresses {
        host_route(&mut host, wire, ifindex, *address, *router)?;
    }
    await_carrier(&mut pod, &wire.pod_ifname)
}

/// Whose device stands in the way: the pod's, or the node's.
fn taken(wire: &Wire) -> Failure {
    match skerry_kernel::ifindex(&wire.host_ifname) {
        Ok(_) => Failure::DeviceTaken { ifname: wire.host_ifname.clone() },
        Err(_) => Failure::IfnameTaken { ifname: wire.pod_ifname.clone() },
    }
}

fn pod_side(wire: &Wire) -> Result<Netlink, Failure> {
    if wire.addresses.iter().any(|(address, _)| address.is_ipv6()) {
        enable_ipv6(&wire.pod_ifname)?;
    }
    let ifindex = skerry_kernel::ifindex(&wire.pod_ifname)?;
    let mut pod = Netlink::open()?;
    pod.run(&veth::pod_side(wire, ifindex))?;
    Ok(pod)
}

/// Some runtimes make namespaces without IPv6. Runs inside the pod's.
fn enable_ipv6(ifname: &str) -> Result<(), Failure> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6"));
    let failed = |operation, source| {
        Failure::State(crate::state::StateError::Io { operation, path: path.clone(), source })
    };
    let now = fs::read_to_string(&path).map_err(|e| failed("read", e))?;
    if now.trim() != "0" {
        fs::write(&path, "0").map_err(|e| failed("write 0 into", e))?;
    }
    Ok(())
}

/// The node speaks to its pods as their router; where the router's address is on no device (the agent's VXLAN
/// device was removed), as itself.
fn host_route(
    host: &mut Netlink,
    wire: &Wire,
    ifindex: u32,
    address: IpAddr,
    router: IpAddr,
) -> Result<(), Failure> {
    match host.run(&[veth::host_route(wire, ifindex, address, Some(router))]) {
        Err(error) if error.errno() == Some(libc::EINVAL) => {
            host.run(&[veth::host_route(wire, ifindex, address, None)])?;
            Ok(())
        }
        result => Ok(result.map(drop)?),
    }
}

/// The end that came up first sends only once the kernel has noticed its carrier, and until then drops what
/// the pod says. Asking makes it notice (Linux 6.8); older ones get a moment.
fn await_carrier(pod: &mut Netlink, ifname: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + CARRIER_PATIENCE;
    loop {
        let answers = pod.run(&[veth::get_link(ifname)])?;
        let is_up = answers.iter().flatten().any(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                link.attributes.contains(&LinkAttribute::OperState(State::Up))
            }
            _ => false,
        });
        if is_up || Instant::now() >= deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
