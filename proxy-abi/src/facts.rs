use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// An address prefix. `len` counts bits of the 128-bit form: an IPv4 /12 has `len` 108. `len` 0 means "none".
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Prefix {
    /// Bits behind `len` are not looked at.
    pub addr: Addr,
    /// 0 to 128.
    pub len: u32,
}

impl Prefix {
    /// Whether the address lies in it, which must not be none.
    #[inline(always)]
    pub const fn has(&self, addr: &Addr) -> bool {
        (self.differs(addr, 0, 0)
            | self.differs(addr, 1, 32)
            | self.differs(addr, 2, 64)
            | self.differs(addr, 3, 96))
            == 0
    }

    /// Whether the address lies in one of those that stand before the first none.
    #[inline(always)]
    pub const fn any_has<const N: usize>(list: &[Prefix; N], addr: &Addr) -> bool {
        let mut index = 0;
        while index < N && list[index].len != 0 {
            if list[index].has(addr) {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The first `N` of these, and none for the rest.
    pub fn list<const N: usize>(prefixes: &[Prefix]) -> [Prefix; N] {
        core::array::from_fn(|index| prefixes.get(index).copied().unwrap_or_default())
    }

    /// The bits of one word that lie within the prefix and differ.
    #[inline(always)]
    const fn differs(&self, addr: &Addr, index: usize, bits_before: u32) -> u32 {
        let bits = self.len.saturating_sub(bits_before);
        let mask = if bits >= 32 { u32::MAX } else { !(u32::MAX >> bits) };
        (self.addr.0[index] ^ addr.0[index]) & mask.to_be()
    }
}

/// The single element of the `CONFIG` array: facts of this node that the agent finds out and may change while
/// the programs run. All times in seconds, all ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Facts {
    /// [`crate::ABI_VERSION`] of whoever wrote the maps. 0: no agent has written yet.
    pub abi_version: u32,
    /// Bits of [`facts_flag`].
    pub flags: u32,
    /// `SO_NETNS_COOKIE` of the namespace that the node's own processes live in.
    pub host_netns_cookie: u64,
    /// The addresses of the uplink, the device towards the other nodes: VXLAN outer source, and source of
    /// what is masqueraded where the device that it leaves by has none of its own. [`Addr::UNSPECIFIED`] if
    /// none.
    pub node_v4: Addr,
    /// As `node_v4`.
    pub node_v6: Addr,
    /// The router address of each pod CIDR (its first host address).
    pub router_v4: Addr,
    /// As `router_v4`.
    pub router_v6: Addr,
    /// ClusterIP ranges of both families, the first `len` 0 ends them: an address inside without a frontend
    /// is dropped.
    pub service_ranges: [Prefix; Facts::SERVICE_RANGES],
    /// Addresses of balancers in front of nodes, the first `len` 0 ends them: what they send inside other
    /// packets is unwrapped.
    pub balancers: [Prefix; Facts::BALANCERS],
    /// The device that has `node_v4` and `node_v6`; 0: none was found yet.
    pub uplink_ifindex: u32,
    /// The VXLAN device; 0 while the tunnel is not up.
    pub overlay_ifindex: u32,
    /// VXLAN network identifier, 24 bits (RFC 7348 section 5), of every packet between nodes: one with
    /// another is dropped.
    pub vni: u32,
    /// Inner MTU in bytes: what a pod may send.
    pub pod_mtu: u32,
    /// Ports that are looked up as NodePorts at the node's addresses (`--nodeport-range`), both inclusive. No
    /// packet to another port is one to a NodePort, whatever `FRONTENDS` holds.
    pub nodeport_min: u16,
    /// See `nodeport_min`.
    pub nodeport_max: u16,
    /// Source ports that SNAT hands out, inclusive.
    pub snat_min: u16,
    /// See `snat_min`. Where it is less, or `snat_min` is 0, no flow gets a source port.
    pub snat_max: u16,
    /// How long a flow may be silent, 0: for ever. Which flow has which time: [`Facts::timeout_s`]. First
    /// packets of TCP.
    pub tcp_syn_s: u32,
    /// TCP, established.
    pub tcp_established_s: u32,
    /// TCP, closed by both ends or reset.
    pub tcp_closing_s: u32,
    /// Datagrams within one second only.
    pub udp_s: u32,
    /// Datagrams over a longer time.
    pub udp_stream_s: u32,
    /// ICMP echo.
    pub icmp_s: u32,
    /// UDP port of the tunnel: what goes to it is the kernel's, no table is asked.
    pub tunnel_port: u16,
    /// Always 0.
    pub reserved: [u8; 2],
    /// Elements of `FLOW_QUEUE` that are used, a power of two ([`crate::Seat::in_use`]). 0: no flow is
    /// evicted.
    pub flow_queue: u32,
}

impl Facts {
    /// ClusterIP ranges that there is room for.
    pub const SERVICE_RANGES: usize = 8;
    /// Ranges of balancers that there is room for.
    pub const BALANCERS: usize = 4;

    /// The router address of a family.
    #[inline(always)]
    pub const fn router(&self, v4: bool) -> &Addr {
        if v4 { &self.router_v4 } else { &self.router_v6 }
    }

    /// Whether a port is one that translated flows are given.
    #[inline(always)]
    pub const fn gives(&self, port: Be16) -> bool {
        let port = port.get();
        port >= self.snat_min && port <= self.snat_max
    }

    /// The uplink's address of a family.
    #[inline(always)]
    pub const fn node(&self, v4: bool) -> &Addr {
        if v4 { &self.node_v4 } else { &self.node_v6 }
    }
}

/// Bits of [`Facts::flags`].
pub mod facts_flag {
    /// Pods' traffic to the outside gets the node's address.
    pub const MASQUERADE: u32 = 1 << 0;
    /// The tunnel is used for remote pod CIDRs.
    pub const TUNNEL: u32 = 1 << 1;
    /// The socket hooks leave pods alone: their packets carry service addresses, and are translated on their
    /// devices.
    pub const PODS_BY_PACKET: u32 = 1 << 2;
}

const _: () = assert!(size_of::<Facts>() == 376 && align_of::<Facts>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_what_agrees_in_all_its_bits() {
        let at = |words: [u32; 4]| Addr(words.map(u32::to_be));
        for len in 1..=128 {
            let prefix = Prefix { addr: at([0xfd00_0001, 0x0203_0405, 0x0607_0809, 0x0a0b_0c0d]), len };
            for bit in 0..128_usize {
                let mut other = prefix.addr;
                other.0[bit / 32] ^= (0x8000_0000_u32 >> (bit % 32)).to_be();
                assert_eq!(prefix.has(&other), bit >= len as usize, "bit {bit} of {len}");
            }
            assert!(prefix.has(&prefix.addr));
        }
        // The same difference in two words is one in each.
        let prefix = Prefix { addr: at([1, 1, 1, 1]), len: 128 };
        for other in [[2, 2, 1, 1], [1, 2, 2, 1], [1, 1, 2, 2], [2, 1, 1, 2]] {
            assert!(!prefix.has(&at(other)), "{other:?}");
        }
    }

    #[test]
    fn a_list_ends_with_the_first_none() {
        let prefix = |first: u32| Prefix { addr: Addr([first, 0, 0, 0]), len: 32 };
        let addr = |first: u32| Addr([first, 7, 7, 7]);
        let list: [Prefix; 3] = Prefix::list(&[prefix(1), prefix(2)]);
        assert_eq!(list[2], Prefix::default());
        assert!(Prefix::any_has(&list, &addr(1)) && Prefix::any_has(&list, &addr(2)));
        assert!(!Prefix::any_has(&list, &addr(3)));
        let [one, two, none] = list;
        assert!(!Prefix::any_has(&[one, none, two], &addr(2)), "behind it nothing is looked at");
        let [first]: [Prefix; 1] = Prefix::list(&list);
        assert_eq!(first, one, "no more than there is room for");
    }
}
