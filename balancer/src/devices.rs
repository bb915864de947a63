//! The machine's devices: which one leads out, what addresses it has, and that it may forward.

use std::{fs, io, net::IpAddr};

/// The device of the default route; none without one.
pub fn default_device() -> io::Result<Option<String>> {
    Ok(default_of(&fs::read_to_string("/proc/net/route")?))
}

/// `/proc/net/route`: name, destination, gateway, flags, …, mask in hexadecimal.
fn default_of(text: &str) -> Option<String> {
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        is_default.then(|| fields[0].to_owned())
    })
}

/// The first address of a family on one of the devices: no link-local one, none that the balancer serves.
pub fn address(devices: &[String], is_v4: bool, served: &[IpAddr]) -> io::Result<Option<IpAddr>> {
    let fits = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => is_v4 && !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !is_v4 && !v6.is_unicast_link_local() && !v6.is_loopback(),
    };
    let all: Vec<(String, IpAddr)> = nix::ifaddrs::getifaddrs()?
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            fits(&ip).then_some((entry.interface_name, ip))
        })
        .collect();
    let on = |device: &String| {
        let own: Vec<IpAddr> = all.iter().filter(|(name, _)| name == device).map(|(_, ip)| *ip).collect();
        // A machine whose only address is the virtual one shares it.
        own.iter().find(|ip| !served.contains(ip)).or(own.first()).copied()
    };
    Ok(devices.iter().find_map(on))
}

/// The kernel tells its routes only for devices that may forward.
pub fn forward(device: &str) -> io::Result<()> {
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/{device}/forwarding");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == "1" => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => fs::write(&path, "1")
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_default_routes_device_is_found() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth1\t0032A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\t0132A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(super::default_of(text).as_deref(), Some("eth0"));
        assert_eq!(super::default_of("Iface\n"), None);
    }
}
