//! Which IPVS virtual servers are kube-proxy's: those on the addresses that its device holds, and the
//! NodePorts. Pure.

use std::{collections::BTreeSet, net::IpAddr, net::SocketAddr, ops::RangeInclusive};

/// The arguments of `ipvsadm -D` for each virtual server of kube-proxy's, from `ipvsadm-save -n` (or `ipvsadm
/// -S -n`), whose lines are `-A -t 10.96.0.1:443 -s rr` for a virtual server and `-a …` for its real ones.
///
/// `held`: addresses of [`super::names::IPVS_DEVICE`], which no one else gives any. A NodePort is served on
/// the machine's own addresses (`own`), so there the port decides.
pub fn virtual_servers(
    saved: &str,
    held: &BTreeSet<IpAddr>,
    own: &BTreeSet<IpAddr>,
    node_ports: &RangeInclusive<u16>,
) -> Vec<[String; 2]> {
    let is_ours = |address: &SocketAddr| {
        held.contains(&address.ip()) || (own.contains(&address.ip()) && node_ports.contains(&address.port()))
    };
    saved
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (Some("-A"), Some(protocol), Some(address)) = (words.next(), words.next(), words.next())
            else {
                return None;
            };
            let ours = matches!(protocol, "-t" | "-u" | "--sctp-service")
                && address.parse::<SocketAddr>().is_ok_and(|address| is_ours(&address));
            ours.then(|| [protocol.to_owned(), address.to_owned()])
        })
        .collect()
}

/// The addresses in the output of `ip -o address show`, of one device or of all but one.
pub fn addresses(shown: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        // `7: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0 …`
        let mut words = line.split_whitespace().skip(1);
        let device = words.next()?;
        let family = words.next()?;
        let address = words.next()?.split('/').next()?;
        (family.starts_with("inet") && is_wanted(device)).then(|| address.parse().ok())?
    };
    shown.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n\
        2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n\
        2: eth0    inet6 2001:db8::a/64 scope global \\       valid_lft forever preferred_lft forever\n\
        7: kube-ipvs0    inet 10.96.0.1/32 scope global kube-ipvs0\\       valid_lft forever\n\
        7: kube-ipvs0    inet 10.96.0.10/32 scope global kube-ipvs0\\       valid_lft forever\n\
        7: kube-ipvs0    inet6 fd00:10:96::1/128 scope global \\       valid_lft forever preferred_lft forever\n";

    const SAVED: &str = "-A -t 10.96.0.1:443 -s rr\n-a -t 10.96.0.1:443 -r 192.0.2.10:6443 -m -w 1\n\
        -A -u 10.96.0.10:53 -s rr\n-A -t [fd00:10:96::1]:443 -s rr\n-A -t 192.0.2.10:30080 -s rr\n\
        -A -t [2001:db8::a]:30080 -s rr\n-A --sctp-service 10.96.0.1:9 -s rr\n\
        -A -t 192.0.2.10:80 -s wlc\n-A -t 198.51.100.7:30080 -s wlc\n-A -f 7 -s rr\n";

    #[test]
    fn services_and_node_ports_go_and_other_virtual_servers_stay() {
        let held = addresses(SHOWN, |device| device == "kube-ipvs0");
        let own = addresses(SHOWN, |device| device != "kube-ipvs0");
        assert_eq!((held.len(), own.len()), (3, 3));
        let gone: Vec<String> =
            virtual_servers(SAVED, &held, &own, &(30000..=32767)).iter().map(|pair| pair.join(" ")).collect();
        assert_eq!(
            gone,
            [
                "-t 10.96.0.1:443",
                "-u 10.96.0.10:53",
                "-t [fd00:10:96::1]:443",
                "-t 192.0.2.10:30080",
                "-t [2001:db8::a]:30080",
                "--sctp-service 10.96.0.1:9",
            ]
        );
        assert!(virtual_servers(SAVED, &BTreeSet::new(), &BTreeSet::new(), &(30000..=32767)).is_empty());
    }
}
