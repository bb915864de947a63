//! The Internet checksum (RFC 1071) and its incremental form (RFC 1624).
//!
//! All numbers are words as they lie in memory: one's complement sums do not depend on the byte order. A
//! *diff* is the sum of `!from + to` over the words that change. Sums run in 64 bits and are folded once: BPF
//! has no carry.

use proxy_abi::{Addr, Be16};

/// The same sum in 32 bits.
#[inline(always)]
const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

#[inline(always)]
const fn word(from: u32, to: u32) -> u64 {
    !from as u64 + to as u64
}

/// Adds two sums.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    fold(a as u64 + b as u64)
}

/// Whether a diff changes a checksum: words that stay what they were give -0.
#[inline(always)]
pub const fn is_change(diff: u32) -> bool {
    !((diff & 0xffff) + (diff >> 16)).is_multiple_of(0xffff)
}

#[inline(always)]
pub(crate) const fn changed(from: u32, to: u32) -> u32 {
    fold(word(from, to))
}

#[inline(always)]
pub(crate) const fn changed_port(from: Be16, to: Be16) -> u32 {
    (!from.raw() as u32) + to.raw() as u32
}

/// Of two addresses, all of one family.
#[inline(always)]
pub(crate) const fn changed_addresses(v4: bool, from: (&Addr, &Addr), to: (&Addr, &Addr)) -> u32 {
    let sum = changed_at(3, from, to);
    if v4 {
        return fold(sum);
    }
    fold(sum + changed_at(0, from, to) + changed_at(1, from, to) + changed_at(2, from, to))
}

#[inline(always)]
const fn changed_at(index: usize, from: (&Addr, &Addr), to: (&Addr, &Addr)) -> u64 {
    word(from.0.0[index], to.0.0[index]) + word(from.1.0[index], to.1.0[index])
}

/// The checksum field for data whose words add up to `sum`.
#[inline(always)]
pub(crate) const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A checksum field after `diff`, the sum of the changes of what it covers, has been worked in.
/// `zero_is_none`: a field of 0 means "no checksum" and stays, and none becomes 0 (UDP, RFC 768).
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
    let pairs = bytes.as_chunks::<2>().0.iter();
    fold(pairs.fold(sum as u64, |sum, pair| sum + u16::from_ne_bytes(*pair) as u64))
}

#[inline(always)]
pub(crate) fn add_addr(sum: u32, addr: &Addr) -> u32 {
    if addr.is_v4() {
        return add(sum, addr.0[3]);
    }
    fold(addr.0.iter().fold(sum as u64, |sum, word| sum + *word as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carry_that_carries_again_is_added_too() {
        assert_eq!(fold(0x1_ffff_ffff), 1);
        assert_eq!(fold(0xffff_ffff_ffff_ffff), 0xffff_ffff);
        assert_eq!(add(u32::MAX, u32::MAX), u32::MAX);
        assert_eq!(finish(0xffff_ffff), 0, "all ones are 0");
        assert_eq!(finish(0x0001_ffff), !1);
    }

    #[test]
    fn no_checksum_stays_none_and_none_becomes_no_checksum() {
        let diff = changed_port(Be16::new(53), Be16::new(54));
        assert_eq!(fix_checksum([0, 0], diff, true), [0, 0]);
        assert_ne!(fix_checksum([0, 0], diff, false), [0, 0], "where 0 is a sum as any other");
        // 53 → 54 takes one away: 0x0001 becomes 0, which UDP writes as all ones.
        assert_eq!(fix_checksum([0, 1], diff, false), [0, 0]);
        assert_eq!(fix_checksum([0, 1], diff, true), [0xff, 0xff]);
        assert_eq!(fix_checksum([0, 2], diff, true), [0, 1]);
    }

    #[test]
    fn a_diff_of_what_stays_is_no_change() {
        let (a, b) = (Addr::from_v4([10, 0, 0, 1]), Addr::from_v4([10, 96, 0, 7]));
        let six = Addr::from_v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let port = Be16::new(53);
        for same in [
            0,
            changed_port(port, port),
            changed_port(port, port) + changed_port(Be16::new(7), Be16::new(7)),
            changed_addresses(true, (&a, &b), (&a, &b)),
            changed_addresses(false, (&six, &six), (&six, &six)),
        ] {
            assert!(!is_change(same), "{same:#x}");
            assert_eq!(fix_checksum([0x12, 0x34], same, false), [0x12, 0x34]);
        }
        assert!(is_change(changed_port(port, Be16::new(54))));
        assert!(is_change(changed_addresses(true, (&a, &b), (&a, &a))));
    }
}
