//! Which devices lead out of the node, and which of its addresses are reached from outside: one decision,
//! pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// What a device of the node is, as far as that matters here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Device {
    pub index: u32,
    pub name: String,
    pub kind: DeviceKind,
    /// Those that may be reached from other links, the lasting ones first.
    pub addresses: Vec<IpAddr>,
    pub has_default_route: bool,
    /// Something beyond it is routed there.
    pub is_routed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum DeviceKind {
    /// Frames come in and go out.
    #[default]
    Ethernet,
    /// Nothing leaves by it: loopback and dummies. Their addresses are reached by way of others.
    Inner,
    /// A port of a bridge, a bond or a team, which does the speaking.
    Port,
    /// It carries no Ethernet frames: the programs can't read what it does.
    Frameless,
    /// The overlay and pods' devices.
    Ours,
}

impl Device {
    pub fn first(&self, is_v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv4() == is_v4)
    }
}

/// Devices beside the one towards the other nodes that lead out, those with a default route first: what
/// leaves by them is masqueraded, NodePorts are served on their addresses. `named`: those, where they are
/// there; else all by which anything can leave. `pods`: ranges of pods; a device in one of them is the bridge
/// of another network plugin, whose pods we are not to judge. None known: the node is new, and only default
/// routes are followed.
pub(crate) fn ways_out<'a>(
    devices: &'a [Device],
    first: u32,
    named: Option<&[String]>,
    pods: &[IpNetwork],
) -> Vec<&'a Device> {
    let is_among_pods =
        |device: &Device| device.addresses.iter().any(|ip| pods.iter().any(|range| range.contains(*ip)));
    let leads_out = |device: &&Device| {
        device.has_default_route
            || (!pods.is_empty()
                && (device.is_routed || !device.addresses.is_empty())
                && !is_among_pods(device))
    };
    let mut found: Vec<&Device> = devices
        .iter()
        .filter(|device| device.index != first)
        .filter(|device| match named {
            Some(named) => {
                matches!(device.kind, DeviceKind::Ethernet | DeviceKind::Port) && named.contains(&device.name)
            }
            None => device.kind == DeviceKind::Ethernet && leads_out(device),
        })
        .collect();
    found.sort_by_key(|device| (!device.has_default_route, device.index));
    found
}

/// The node's addresses, and whether packets to them meet the programs: those on the ways out, and those that
/// packets can only come to by way of them.
pub(crate) fn reached<'a>(
    devices: &'a [Device],
    ways_out: &'a [u32],
) -> impl Iterator<Item = (IpAddr, bool)> + 'a {
    devices.iter().filter(|device| device.kind != DeviceKind::Ours).flat_map(|device| {
        let is_reached = device.kind == DeviceKind::Inner || ways_out.contains(&device.index);
        device.addresses.iter().map(move |ip| (*ip, is_reached))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str, addresses: &[&str]) -> Device {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Device { index, name: name.to_owned(), addresses, ..Device::default() }
    }

    fn machine() -> Vec<Device> {
        let of = |kind: DeviceKind, device: Device| Device { kind, ..device };
        vec![
            of(DeviceKind::Inner, device(1, "lo", &["203.0.113.9"])),
            Device { has_default_route: true, ..device(2, "eth0", &["172.31.0.1"]) },
            device(3, "eth1", &["10.9.0.1", "fd00:9::1"]),
            Device { has_default_route: true, ..device(4, "eth2", &[]) },
            Device { is_routed: true, ..device(5, "eth3", &[]) },
            device(6, "eth4", &[]),
            of(DeviceKind::Port, device(7, "eth5", &["10.10.0.1"])),
            of(DeviceKind::Frameless, device(8, "wg0", &["10.11.0.1"])),
            of(DeviceKind::Ours, device(9, "skerry0", &["10.244.1.1"])),
            device(10, "cni0", &["10.244.1.1"]),
            device(11, "docker0", &["172.17.0.1"]),
            of(DeviceKind::Inner, device(12, "dummy0", &["203.0.113.10"])),
        ]
    }

    fn names(named: Option<&[String]>, pods: &[&str]) -> Vec<String> {
        let pods: Vec<IpNetwork> = pods.iter().map(|range| range.parse().unwrap()).collect();
        ways_out(&machine(), 2, named, &pods).iter().map(|device| device.name.clone()).collect()
    }

    #[test]
    fn every_device_by_which_a_packet_can_leave_is_a_way_out() {
        let pods = ["10.244.1.0/24"];
        assert_eq!(names(None, &pods), ["eth2", "eth1", "eth3", "docker0"]);
        assert_eq!(names(None, &[]), ["eth2"], "what is a pod's is not known yet");
        assert_eq!(names(Some(&[]), &pods), [""; 0]);
        let asked = ["eth4", "eth5", "wg0", "eth9"].map(str::to_owned);
        assert_eq!(names(Some(&asked), &pods), ["eth4", "eth5"]);
    }

    #[test]
    fn an_address_is_reached_where_its_device_is_a_way_out_or_leads_nowhere_itself() {
        let machine = machine();
        let told = |ways: &[u32]| -> Vec<String> {
            let reached = reached(&machine, ways).filter(|(_, is_reached)| *is_reached);
            reached.map(|(ip, _)| ip.to_string()).collect()
        };
        assert_eq!(told(&[2, 3]), ["203.0.113.9", "172.31.0.1", "10.9.0.1", "fd00:9::1", "203.0.113.10"]);
        assert_eq!(told(&[2]), ["203.0.113.9", "172.31.0.1", "203.0.113.10"]);
        let own: Vec<IpAddr> = reached(&machine, &[2]).map(|(ip, _)| ip).collect();
        assert!(own.contains(&"10.11.0.1".parse().unwrap()), "the node's own all the same: {own:?}");
    }
}
