//! The Internet checksum (RFC 1071) and its incremental form (RFC 1624).
//!
//! All numbers are words as they lie in memory: one's complement sums do not depend on the byte order.

use proxy_abi::{Addr, Be16};

/// Sum of `!from + to`, the change of a checksummed word, kept below 2^32 by end-around carry.
#[inline(always)]
pub(crate) const fn changed(diff: u32, from: u32, to: u32) -> u32 {
    add(add(diff, !from), to)
}

#[inline(always)]
pub(crate) const fn changed_port(diff: u32, from: Be16, to: Be16) -> u32 {
    add(add(diff, !from.raw() as u32 & 0xffff), to.raw() as u32)
}

#[inline(always)]
pub(crate) const fn changed_addr(diff: u32, from: &Addr, to: &Addr) -> u32 {
    let diff = changed(diff, from.0[3], to.0[3]);
    if to.is_v4() {
        return diff;
    }
    let diff = changed(diff, from.0[0], to.0[0]);
    let diff = changed(diff, from.0[1], to.0[1]);
    changed(diff, from.0[2], to.0[2])
}

#[inline(always)]
pub(crate) const fn add(a: u32, b: u32) -> u32 {
    let sum = a.wrapping_add(b);
    sum.wrapping_add((sum < a) as u32)
}

/// The checksum field for data whose words add up to `sum`.
#[inline(always)]
pub(crate) const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A checksum field after `diff`, the sum of the changes of what it covers, has been worked in. `zero_is_none`: a field of 0
/// means "no checksum" and stays, and none becomes 0 (UDP, RFC 768).
#[inline(always)]
pub const fn fix_checksum(field: [u8; 2], diff: u32, zero_is_none: bool) -> [u8; 2] {
    let old = u16::from_ne_bytes(field);
    if zero_is_none && old == 0 {
        return field;
    }
    let new = finish(add(!old as u32, diff));
    let new = if zero_is_none && new == 0 { 0xffff } else { new };
    new.to_ne_bytes()
}

/// Adds an even number of bytes to a sum.
#[inline(always)]
pub(crate) fn add_bytes<const N: usize>(sum: u32, bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(2)) };
    bytes.as_chunks::<2>().0.iter().fold(sum, |sum, pair| add(sum, u16::from_ne_bytes(*pair) as u32))
}

#[inline(always)]
pub(crate) fn add_addr(sum: u32, addr: &Addr) -> u32 {
    let sum = add(sum, addr.0[3]);
    if addr.is_v4() {
        return sum;
    }
    add(add(add(sum, addr.0[0]), addr.0[1]), addr.0[2])
}
