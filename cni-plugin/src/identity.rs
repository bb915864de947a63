//! Names that follow from the container: pure, the same at every call.

/// What an attachment is called in files: container id and interface name, neither of which can hold a `@` or
/// a `/` (the specification's rule for ids; refused for interface names).
pub fn key(container_id: &str, ifname: &str) -> String {
    format!("{container_id}@{ifname}")
}

/// The host side of the pair: `sk` and 40 bits of hash, well inside the 15 bytes of a device name. Two
/// containers of one node with the same name are a matter of one in a million million; the second one's ADD
/// is then refused.
pub fn host_ifname(container_id: &str, ifname: &str) -> String {
    format!("sk{:010x}", hash(b"name", container_id, ifname) >> 24)
}

/// Whether a device can be the host side of a pair.
pub fn is_host_ifname(name: &str) -> bool {
    name.strip_prefix("sk")
        .is_some_and(|hash| hash.len() == 10 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The pod's own hardware address: locally administered, unicast.
pub fn pod_mac(container_id: &str, ifname: &str) -> [u8; 6] {
    mac(hash(b"pod", container_id, ifname))
}

/// The host side's hardware address.
pub fn host_mac(container_id: &str, ifname: &str) -> [u8; 6] {
    mac(hash(b"host", container_id, ifname))
}

fn mac(hash: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    [a & 0xfc | 0x02, b, c, d, e, f]
}

/// `02:00:00:00:00:01`
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// FNV-1a with a final mix (that of MurmurHash3), so that short inputs reach the upper bits.
fn hash(purpose: &[u8], container_id: &str, ifname: &str) -> u64 {
    let bytes =
        purpose.iter().chain(b"\0").chain(container_id.as_bytes()).chain(b"\0").chain(ifname.as_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_apart() {
        assert_eq!(host_ifname("c1", "eth0"), host_ifname("c1", "eth0"));
        let names: std::collections::HashSet<String> =
            (0..20_000).map(|i| host_ifname(&format!("c{i}"), "eth0")).collect();
        assert_eq!(names.len(), 20_000);
        assert_ne!(host_ifname("c1", "eth0"), host_ifname("c1", "eth1"));
        assert!(names.iter().all(|n| n.len() == 12 && is_host_ifname(n)));
        assert!(!["skerry0", "eth0", "sk", "skzzzzzzzzzz"].iter().any(|name| is_host_ifname(name)));
    }

    #[test]
    fn addresses_are_unicast_and_locally_administered() {
        for id in 0..1_000 {
            let (pod, host) = (pod_mac(&id.to_string(), "eth0"), host_mac(&id.to_string(), "eth0"));
            assert_eq!((pod[0] & 3, host[0] & 3), (2, 2));
            assert_ne!(pod, host);
        }
        assert_eq!(mac_text([2, 0, 0xab, 0, 0, 1]), "02:00:ab:00:00:01");
    }
}
