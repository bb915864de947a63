//! The maps, with the default sizes of `proxy_abi::MAPS`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use proxy_abi::{
    Addr, Affinity, AffinityKey, Counter, DropEvent, Endpoint, Facts, Flow, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Link, MAPS, Member, OwnPorts, Peer, PodCidr, Reason, Seat, Slot, SocketKey,
    SocketOrigin, SourceOf, Tuple, Uplink, map,
};

/// Default size of a map, out of the table that the agent reads too.
const fn size(name: &str) -> usize {
    let mut index = 0;
    while index < MAPS.len() {
        if equal(MAPS[index].name.as_bytes(), name.as_bytes()) {
            return MAPS[index].max_entries as usize;
        }
        index += 1;
    }
    panic!("the map is not in proxy_abi::MAPS")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// Tables that are written seldom and sized generously: memory only for what is in them.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CONFIG: Array<Facts, 1> = Array::new();
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { size(map::FRONTENDS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static SLOTS: Array<Slot, { size(map::SLOTS) }> = Array::new();
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceOf, u32, { size(map::SOURCE_RANGES) }> = LpmTrie::new();
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, { size(map::AFFINITY) }> = LruHashMap::new();
#[btf_map]
pub static MEMBERS: HashMap<Member, u32, { size(map::MEMBERS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static ENDPOINTS: HashMap<Addr, Endpoint, { size(map::ENDPOINTS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static LINKS: HashMap<u32, Link, { size(map::LINKS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static UPLINKS: HashMap<u32, Uplink, { size(map::UPLINKS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static POD_CIDRS: LpmTrie<Addr, PodCidr, { size(map::POD_CIDRS) }> = LpmTrie::new();
#[btf_map]
pub static TUNNEL_PEERS: HashMap<Addr, u32, { size(map::TUNNEL_PEERS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static FLOWS: HashMap<Tuple, Flow, { size(map::FLOWS) }, SPARSE> = HashMap::new();
#[btf_map]
pub static FLOW_QUEUE: Array<Seat, { size(map::FLOW_QUEUE) }> = Array::new();
#[btf_map]
pub static FLOW_QUEUE_HEAD: Array<u64, 1> = Array::new();
#[btf_map]
pub static OWN_PORTS: Array<OwnPorts, { OwnPorts::COUNT as usize }> = Array::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { size(map::FRAGMENTS) }> = LruHashMap::new();
#[btf_map]
pub static SOCKETS: LruHashMap<SocketKey, SocketOrigin, { size(map::SOCKETS) }> = LruHashMap::new();
#[btf_map]
pub static PEERS: Array<Peer, { Peer::PLACES as usize }> = Array::new();
#[btf_map]
pub static LEFT_OUT: LruHashMap<u64, u32, { size(map::LEFT_OUT) }> = LruHashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, { Reason::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<DropEvent, { size(map::EVENTS) }> = RingBuf::new();
