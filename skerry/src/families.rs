//! Address families: those of the cluster's ranges, and this machine's addresses of each.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, ensure};
use ipnetwork::IpNetwork;
use skerry_kernel::source_towards_outside;
use tokio::sync::{mpsc, watch};

use crate::args::ClusterArgs;

fn name(is_v4: bool) -> &'static str {
    if is_v4 { "IPv4" } else { "IPv6" }
}

/// Whether a cluster can be made of these ranges: one of each family at most, and services of no family that
/// pods have not. The first range's family is the cluster's own: that of the `kubernetes` Service.
pub fn check(cluster: &ClusterArgs) -> anyhow::Result<()> {
    for (flag, ranges) in [("--pod-cidr", &cluster.pod_cidrs), ("--service-cidr", &cluster.service_cidrs)] {
        for is_v4 in [true, false] {
            let count = ranges.iter().filter(|range| range.is_ipv4() == is_v4).count();
            ensure!(count <= 1, "{flag} names {count} {} ranges: one of each family at most", name(is_v4));
        }
    }
    for range in &cluster.service_cidrs {
        ensure!(
            cluster.pod_cidrs.iter().any(|pods| pods.is_ipv4() == range.is_ipv4()),
            "--service-cidr {range}: pods have no {0} addresses; add an {0} range to --pod-cidr",
            name(range.is_ipv4())
        );
    }
    let first = |ranges: &[IpNetwork]| ranges.first().map(IpNetwork::is_ipv4);
    ensure!(
        first(&cluster.pod_cidrs) == first(&cluster.service_cidrs),
        "--pod-cidr and --service-cidr begin with ranges of different families: name the same family first in both"
    );
    Ok(())
}

/// The node's addresses, those given or this machine's default one of each of the cluster's families, at the
/// moment.
pub fn node_addresses(given: &[IpAddr], cluster: &ClusterArgs) -> anyhow::Result<Vec<IpAddr>> {
    for is_v4 in [true, false] {
        let count = given.iter().filter(|ip| ip.is_ipv4() == is_v4).count();
        ensure!(count <= 1, "--node-ip names {count} {} addresses: one of each family at most", name(is_v4));
    }
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let own = |pods: &IpNetwork| {
        source_towards_outside(pods.is_ipv4())
            .with_context(|| format!("find this machine's {} address: give --node-ip", name(pods.is_ipv4())))
    };
    cluster.pod_cidrs.iter().map(own).collect()
}

/// Of these addresses, the one in the family of the cluster's first service range.
pub fn primary(addresses: &[IpAddr], cluster: &ClusterArgs) -> anyhow::Result<IpAddr> {
    let is_v4 = cluster.service_cidrs.first().is_none_or(IpNetwork::is_ipv4);
    addresses.iter().find(|ip| ip.is_ipv4() == is_v4).copied().with_context(|| {
        format!(
            "the first service range is an {0} one, and this machine's {0} address is not known: add it to --node-ip or \
             give --advertise",
            name(is_v4)
        )
    })
}

/// Where the API is served if nothing else is said: on every address of both families.
pub fn listen_address(asked: SocketAddr) -> SocketAddr {
    let every = (Ipv6Addr::UNSPECIFIED, 0);
    match asked.ip() {
        // A kernel without IPv6.
        IpAddr::V6(ip) if ip.is_unspecified() && UdpSocket::bind(every).is_err() => {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), asked.port())
        }
        _ => asked,
    }
}

/// Addresses and routes change in bursts.
const SETTLE: Duration = Duration::from_millis(200);

/// Tells the node's addresses anew whenever the machine's change, for ever. While it has none of a family
/// what was known stays.
pub async fn follow(cluster: ClusterArgs, to: watch::Sender<Vec<IpAddr>>) -> anyhow::Result<()> {
    let (tell, mut changed) = mpsc::channel(1);
    let listening = proxy_agent::monitor(tell)?;
    let follow = async {
        loop {
            if let Ok(found) = node_addresses(&[], &cluster) {
                to.send_if_modified(|known| {
                    let is_new = *known != found;
                    if is_new {
                        tracing::warn!(?known, ?found, "this machine's addresses have changed");
                        *known = found;
                    }
                    is_new
                });
            }
            if changed.recv().await.is_none() {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    };
    tokio::join!(listening, follow);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(pods: &str, services: &str) -> ClusterArgs {
        let list = |text: &str| text.split(',').map(|range| range.parse().unwrap()).collect();
        ClusterArgs { pod_cidrs: list(pods), service_cidrs: list(services), nodeport_range: (30000, 32767) }
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_make_no_cluster_are_refused_with_their_flag() {
        check(&cluster("10.0.0.0/16", "10.96.0.0/12")).unwrap();
        check(&cluster("10.0.0.0/16,fd00:1::/56", "10.96.0.0/12")).unwrap();
        check(&cluster("fd00:1::/56,10.0.0.0/16", "fd00:2::/112,10.96.0.0/12")).unwrap();
        for (pods, services, part) in [
            ("10.0.0.0/16,10.1.0.0/16", "10.96.0.0/12", "--pod-cidr names 2 IPv4 ranges"),
            ("fd00:1::/56", "fd00:2::/112,fd00:3::/112", "--service-cidr names 2 IPv6 ranges"),
            ("10.0.0.0/16", "10.96.0.0/12,fd00:2::/112", "add an IPv6 range to --pod-cidr"),
            ("10.0.0.0/16,fd00:1::/56", "fd00:2::/112", "name the same family first"),
        ] {
            let error = check(&cluster(pods, services)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_servers_address_is_of_the_first_service_range() {
        let (both, dual) =
            (ips(&["fd00::7", "192.0.2.7"]), cluster("10.0.0.0/16,fd00:1::/56", "10.96.0.0/12,fd00:2::/112"));
        assert_eq!(node_addresses(&both, &dual).unwrap(), both);
        assert_eq!(primary(&both, &dual).unwrap(), both[1]);
        let error = primary(&both[..1], &dual).unwrap_err().to_string();
        assert!(error.contains("IPv4") && error.contains("--node-ip"), "{error}");
        let error = node_addresses(&ips(&["192.0.2.7", "192.0.2.8"]), &dual).unwrap_err().to_string();
        assert!(error.contains("--node-ip names 2 IPv4 addresses"), "{error}");
    }
}
