//! A question to the kernel's routes.

use core::mem;

use aya_ebpf::bindings::bpf_fib_lookup;
use proxy_abi::Tuple;

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
