//! A question to the kernel's routes.

use core::{ffi::c_void, mem};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    },
    helpers::generated as helper,
};
use proxy_abi::Tuple;
use proxy_datapath::{NextHop, Way};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// As for a packet of this tuple that came in by the device `ifindex`.
#[inline(always)]
pub fn query(tuple: &Tuple, ifindex: u32) -> bpf_fib_lookup {
    // SAFETY: integers and arrays of them: all zeroes is a value.
    let mut query: bpf_fib_lookup = unsafe { mem::zeroed() };
    if tuple.dst.is_v4() {
        query.family = AF_INET;
        query.__bindgen_anon_3.ipv4_src = tuple.src.v4_raw();
        query.__bindgen_anon_4.ipv4_dst = tuple.dst.v4_raw();
    } else {
        query.family = AF_INET6;
        query.__bindgen_anon_3.ipv6_src = tuple.src.0;
        query.__bindgen_anon_4.ipv6_dst = tuple.dst.0;
    }
    query.l4_protocol = tuple.proto;
    query.sport = tuple.sport.raw();
    query.dport = tuple.dport.raw();
    query.ifindex = ifindex;
    query
}

/// Asks for the program that runs with this context.
#[inline(always)]
pub fn ask(context: *mut c_void, query: &mut bpf_fib_lookup, hop: &mut NextHop) {
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the helper reads and writes no more than the size it is told.
    let answer = unsafe { helper::bpf_fib_lookup(context, query, size, 0) } as u32;
    hop.way = match answer {
        BPF_FIB_LKUP_RET_SUCCESS => Way::Found,
        BPF_FIB_LKUP_RET_NO_NEIGH => Way::NoNeighbour,
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Way::TooBig,
        _ => Way::None,
    };
    // SAFETY: where the answer is FRAG_NEEDED the helper has put the MTU in the place of the length.
    hop.mtu = unsafe { query.__bindgen_anon_1.mtu_result } as u32;
    hop.ifindex = query.ifindex;
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (query.dmac, query.smac);
    hop.macs = [a, b, c, d, e, f, g, h, i, j, k, l];
}
