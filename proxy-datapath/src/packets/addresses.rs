//! Addresses that are nobody's, or everybody's.

use proxy_abi::Addr;

/// 127.0.0.0/8 and ::1, which never belong on a device (RFC 1122 section 3.2.1.3).
#[inline(always)]
pub(crate) const fn is_loopback(addr: &Addr) -> bool {
    if addr.is_v4() {
        return addr.v4_raw().to_ne_bytes()[0] == 127;
    }
    addr.0[0] == 0 && addr.0[1] == 0 && addr.0[2] == 0 && addr.0[3] == 1_u32.to_be()
}

/// Multicast and the limited broadcast: never routed, the kernel's own.
#[inline(always)]
pub(crate) const fn is_multicast(addr: &Addr) -> bool {
    if addr.is_v4() {
        let [a, ..] = addr.v4_raw().to_ne_bytes();
        return a & 0xf0 == 0xe0 || addr.v4_raw() == u32::MAX;
    }
    addr.0[0].to_ne_bytes()[0] == 0xff
}

/// `fe80::/10`.
#[inline(always)]
pub(crate) const fn is_link_local_v6(addr: &Addr) -> bool {
    let [a, b, ..] = addr.0[0].to_ne_bytes();
    a == 0xfe && b & 0xc0 == 0x80
}

/// Two IPv4 addresses as they follow each other in a header.
#[inline(always)]
pub(crate) const fn pair(first: &Addr, second: &Addr) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.v4_raw().to_ne_bytes(), second.v4_raw().to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}
