//! The result of ADD, in the layout of the version asked for: pure.

use std::{net::IpAddr, path::Path};

use rscni_types::{
    error::Error,
    ipnet::IpNet,
    legacy,
    types::{CNIResult, CNIResultWithVersion, Interface, IpConfig, Route},
    version::SpecVersion,
};
use serde_json::{Map, Value};

use crate::{
    identity::mac_text,
    veth::{Wire, gateway},
};

/// What we made, behind what the plugins before us made (`previous`, kept with all its unknown fields).
pub fn result(
    version: SpecVersion,
    wire: &Wire,
    netns: &Path,
    previous: Option<&Map<String, Value>>,
) -> Result<Value, Error> {
    let own = encode(version, own_result(version, wire, netns))?;
    match (previous, own) {
        (Some(previous), Value::Object(own)) => merge(previous, own),
        (_, own) => Ok(own),
    }
}

/// A result in the layout of `version`.
pub fn encode(version: SpecVersion, result: CNIResult) -> Result<Value, Error> {
    let value = if version.is_legacy() {
        serde_json::to_value(legacy::CNIResult::new(version, result))
    } else {
        serde_json::to_value(CNIResultWithVersion::new(version, result))
    };
    value.map_err(|e| Error::IOFailure(format!("write the result: {e}")))
}

fn own_result(version: SpecVersion, wire: &Wire, netns: &Path) -> CNIResult {
    // Interfaces have an MTU since 1.1.0.
    let mtu = (version >= SpecVersion::new(1, 1, 0)).then_some(wire.mtu);
    let interface = |name: &str, mac, sandbox| Interface {
        name: name.to_owned(),
        mac: mac_text(mac),
        mtu,
        sandbox,
        socket_path: None,
        pci_id: None,
    };
    let sandbox = Some(netns.display().to_string());
    let addresses = || wire.addresses.iter().map(|(address, _)| *address);
    CNIResult {
        interfaces: vec![
            interface(&wire.host_ifname, wire.host_mac, None),
            interface(&wire.pod_ifname, wire.pod_mac, sandbox),
        ],
        ips: addresses()
            .map(|ip| IpConfig { interface: Some(1), address: IpNet::from(ip), gateway: Some(gateway(ip)) })
            .collect(),
        routes: addresses().map(default_route).collect(),
        dns: None,
    }
}

fn default_route(address: IpAddr) -> Route {
    let everything: IpAddr = if address.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
    Route {
        dst: IpNet::new_assert(everything, 0),
        gw: Some(gateway(address)),
        mtu: None,
        advmss: None,
        priority: None,
        table: None,
        scope: None,
    }
}

fn merge(previous: &Map<String, Value>, own: Map<String, Value>) -> Result<Value, Error> {
    let mut merged = previous.clone();
    let shift = merged.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len);
    for (name, value) in own {
        let Value::Array(mut ours) = value else {
            // `cniVersion` is ours to say; `dns` was theirs, if they gave one.
            if name == "cniVersion" || !merged.contains_key(&name) {
                merged.insert(name, value);
            }
            continue;
        };
        if name == "ips" {
            for ip in &mut ours {
                let index = ip.get("interface").and_then(Value::as_u64).unwrap_or(0);
                ip["interface"] = Value::from(index + shift as u64);
            }
        }
        match merged.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(theirs) => theirs.append(&mut ours),
            empty @ Value::Null => *empty = Value::Array(ours),
            _ => {
                return Err(Error::InvalidNetworkConfig(format!("prevResult: field {name:?} is no list")));
            }
        }
    }
    Ok(Value::Object(merged))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wire() -> Wire {
        Wire {
            host_ifname: "sk0".into(),
            host_mac: [2, 0, 0, 0, 0, 1],
            pod_ifname: "eth0".into(),
            pod_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1450,
            addresses: vec![
                ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()),
                ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap()),
            ],
        }
    }

    fn made(version: &str, previous: Option<Value>) -> Value {
        let previous = previous.map(|p| p.as_object().unwrap().clone());
        result(version.parse().unwrap(), &wire(), Path::new("/run/netns/x"), previous.as_ref()).unwrap()
    }

    #[test]
    fn each_version_has_its_layout() {
        let new = made("1.1.0", None);
        assert_eq!(
            new,
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "sk0", "mac": "02:00:00:00:00:01", "mtu": 1450},
                    {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/run/netns/x"},
                ],
                "ips": [
                    {"interface": 1, "address": "10.0.0.2/32", "gateway": "169.254.1.1"},
                    {"interface": 1, "address": "fd00::2/128", "gateway": "fe80::1"},
                ],
                "routes": [
                    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
                    {"dst": "::/0", "gw": "fe80::1"},
                ],
            })
        );
        let one = made("1.0.0", None);
        assert!(one["interfaces"][0].get("mtu").is_none());
        assert!(one["ips"][0].get("version").is_none());
        for version in ["0.3.1", "0.4.0"] {
            let old = made(version, None);
            assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
            assert_eq!((&old["cniVersion"], &old["dns"]), (&json!(version), &json!({})));
        }
    }

    #[test]
    fn earlier_plugins_results_are_passed_on_whole() {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "x0", "vendor.example/colour": "red"}],
            "ips": null,
            "dns": {"nameservers": ["10.0.0.53"]},
            "extra": 7,
        });
        let merged = made("1.0.0", Some(previous));
        assert_eq!(merged["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(merged["interfaces"][0]["vendor.example/colour"], "red");
        assert_eq!(merged["ips"][0]["interface"], 2);
        assert_eq!((&merged["extra"], &merged["dns"]["nameservers"][0]), (&json!(7), &json!("10.0.0.53")));
    }
}
