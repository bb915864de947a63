//! What kube-proxy calls its things. Others have names that begin with `KUBE-` too: the kubelet
//! (`KUBE-FIREWALL`, `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT`), kube-router (`KUBE-ROUTER-…`,
//! `KUBE-POD-FW-…`, `KUBE-NWPLCY-…`). So each name counts, not the prefix.

/// The chains that the built-in chains jump to, in the modes iptables and ipvs (1.19 to 1.36).
const ENTRIES: &[&str] = &[
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    // The mode ipvs has these besides.
    "KUBE-NODE-PORT",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-SOURCE-RANGES-FIREWALL",
];

/// Chains that only other chains of kube-proxy lead to, or none: a canary tells it that somebody flushed the
/// table.
const INNER: &[&str] = &["KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", MARK];

/// A chain for each service or endpoint: what follows is a hash of its name.
const HASHED: &[&str] = &["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];

/// Marks packets that [`POSTROUTING`] masquerades. Others borrow it: the `portmap` plugin can be told to.
pub const MARK: &str = "KUBE-MARK-MASQ";
pub const POSTROUTING: &str = "KUBE-POSTROUTING";

/// Device that holds the services' addresses in the mode ipvs.
pub const IPVS_DEVICE: &str = "kube-ipvs0";
/// Table of the mode nftables, one in each family.
pub const NFT_TABLE: &str = "kube-proxy";

/// Sets of the mode ipvs, behind `KUBE-` for IPv4 and `KUBE-6-` for IPv6.
const SETS: &[&str] = &[
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// Whether a chain of a table is kube-proxy's. `KUBE-FIREWALL` in `filter` is the kubelet's, in `nat` it is
/// ipvs mode's.
pub fn is_chain(table: &str, chain: &str) -> bool {
    let hashed = |prefix: &str| chain.strip_prefix(prefix).is_some_and(|hash| !hash.is_empty());
    is_entry(table, chain) || INNER.contains(&chain) || HASHED.iter().any(|prefix| hashed(prefix))
}

/// Whether kube-proxy itself leads packets there from a built-in chain.
pub fn is_entry(table: &str, chain: &str) -> bool {
    ENTRIES.contains(&chain) || (table == "nat" && chain == "KUBE-FIREWALL")
}

pub fn is_set(name: &str) -> bool {
    let rest = name.strip_prefix("KUBE-6-").or_else(|| name.strip_prefix("KUBE-"));
    rest.is_some_and(|rest| SETS.contains(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_that_look_alike_are_not_kube_proxys() {
        for ours in ["KUBE-SERVICES", "KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-SEP-A", "KUBE-MARK-MASQ"] {
            assert!(is_chain("nat", ours), "{ours}");
        }
        let others = [
            ("filter", "KUBE-FIREWALL"),
            ("mangle", "KUBE-KUBELET-CANARY"),
            ("mangle", "KUBE-IPTABLES-HINT"),
            ("filter", "KUBE-ROUTER-INPUT"),
            ("filter", "KUBE-POD-FW-AAAA"),
            ("filter", "KUBE-NWPLCY-AAAA"),
            ("nat", "KUBE-MARK-DROP"),
            ("nat", "KUBE-SVC-"),
            ("nat", "CNI-HOSTPORT-DNAT"),
        ];
        for (table, other) in others {
            assert!(!is_chain(table, other), "{other}");
        }
        assert!(is_chain("nat", "KUBE-FIREWALL"));
        assert!(is_set("KUBE-CLUSTER-IP") && is_set("KUBE-6-NODE-PORT-TCP"));
        assert!(!is_set("KUBE-SRC-AAAA") && !is_set("CLUSTER-IP") && !is_set("KUBE-DST-3YNVZWWGX3UQQ4VQ"));
    }
}
