//! Filters that wake us only for questions about our addresses. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use skerry_kernel::ClassicInstruction as Op;

/// Bytes of a frame that we read: a solicitation with a few options fits.
pub(crate) const FRAME: usize = 256;
/// A filter of more addresses could outgrow the kernel's 4,096 instructions; then every question wakes us.
const MAX_ADDRESSES: usize = 1500;

/// Where things stand in a frame.
const ARP_OPERATION: u32 = 20;
const ARP_TARGET: u32 = 38;
const NEXT_HEADER: u32 = 20;
const ICMPV6_TYPE: u32 = 54;
/// The last word of a solicitation's target: the whole address is compared when the frame is read.
const TARGET_END: u32 = 74;

/// ARP requests for one of `addresses`.
pub(crate) fn arp<'a>(addresses: impl IntoIterator<Item = &'a Ipv4Addr>) -> Vec<Op> {
    let is_request = [Op::load_half(ARP_OPERATION), Op::jump_equal(1, 1, 0), Op::accept(0)];
    questions(&is_request, ARP_TARGET, addresses.into_iter().map(|ip| u32::from(*ip)).collect())
}

/// Neighbour solicitations for one of `addresses`. Those with extension headers, which nobody sends, are not
/// seen.
pub(crate) fn solicitations<'a>(addresses: impl IntoIterator<Item = &'a Ipv6Addr>) -> Vec<Op> {
    let is_solicitation = [
        Op::load_byte(NEXT_HEADER),
        Op::jump_equal(58, 1, 0),
        Op::accept(0),
        Op::load_byte(ICMPV6_TYPE),
        Op::jump_equal(135, 1, 0),
        Op::accept(0),
    ];
    questions(&is_solicitation, TARGET_END, addresses.into_iter().map(|ip| u128::from(*ip) as u32).collect())
}

fn questions(kind: &[Op], target: u32, addresses: Vec<u32>) -> Vec<Op> {
    let all = Op::accept(FRAME as u32);
    let mut filter = kind.to_vec();
    if addresses.len() > MAX_ADDRESSES {
        filter.push(all);
        return filter;
    }
    filter.push(Op::load_word(target));
    filter.extend(addresses.into_iter().flat_map(|address| [Op::jump_equal(address, 0, 1), all]));
    filter.push(Op::accept(0));
    filter
}
