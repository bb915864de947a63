//! What names are made of: of Services, EndpointSlices and Nodes only the fields that an answer depends on.
//! The same values go through the agent's socket, into the state on disk and into the zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_abi::proto;
use proxy_state::api::{self, FirstAddress};
use serde::{Deserialize, Serialize};

/// A Service. Names are lower case, as the API has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Service {
    pub place: Place,
    /// Only ports with a name have one in the DNS.
    pub ports: Box<[Port]>,
}

/// Where a Service's name leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// The addresses of its own, in the Service's order of families.
    Addresses(Box<[IpAddr]>),
    /// Its endpoints: those that are ready, or all.
    Headless { even_unready: bool },
    /// Another name (`spec.externalName`).
    External(Box<str>),
    /// An address has not been given yet.
    Nowhere,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: Box<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As it stands in names: `_tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
            Protocol::Sctp => "_sctp",
        }
    }

    fn of(number: u8) -> Option<Protocol> {
        match number {
            proto::TCP => Some(Protocol::Tcp),
            proto::UDP => Some(Protocol::Udp),
            proto::SCTP => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// Of the Service, in the slice's own namespace.
    pub service: Box<str>,
    pub ports: Box<[Port]>,
    pub endpoints: Box<[Endpoint]>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Of the pod, where it is in the Service's subdomain.
    pub hostname: Option<Box<str>>,
    pub is_ready: bool,
}

impl Endpoint {
    /// The label below the Service's name: the host name, else one that is made of the address.
    pub fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_string(),
            None => dashed(self.address),
        }
    }
}

/// Keys and texts of a ConfigMap.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Document(pub Box<[(Box<str>, Box<str>)]>);

impl Document {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| **have == *key).map(|(_, text)| &**text)
    }
}

/// `10-244-0-7`, `fd00--7`.
pub fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) => v6.to_string().replace(':', "-"),
    }
}

/// The other way round. An IPv6 address begins or ends with `-` where its text does with `:`; Kubernetes then
/// puts a `0` there, which is the same address.
pub fn undashed(label: &str) -> Option<IpAddr> {
    if let Ok(v4) = label.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(v4.into());
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

impl Service {
    pub fn from_api(service: &api::Service) -> Service {
        let spec = &service.spec;
        let texts = match spec.cluster_ips.is_empty() {
            true => std::slice::from_ref(&spec.cluster_ip),
            false => &spec.cluster_ips[..],
        };
        let place = if spec.kind == "ExternalName" {
            Place::External(spec.external_name.trim_end_matches('.').to_ascii_lowercase().into())
        } else if texts.iter().any(|text| text == "None") {
            Place::Headless { even_unready: spec.publish_not_ready_addresses }
        } else {
            let addresses: Box<[IpAddr]> = texts.iter().filter_map(|text| text.parse().ok()).collect();
            if addresses.is_empty() { Place::Nowhere } else { Place::Addresses(addresses) }
        };
        let ports = spec.ports.iter().filter_map(|port| {
            let protocol = Protocol::of(port.protocol.0)?;
            Some(Port { name: port.name.as_str().into(), protocol, port: port.port })
        });
        Service { place, ports: ports.collect() }
    }
}

impl Slice {
    /// `None` for one that belongs to no Service, or whose endpoints are names.
    pub fn from_api(slice: &api::EndpointSlice) -> Option<Slice> {
        let service = slice.metadata.labels.service_name.as_deref().filter(|name| !name.is_empty())?;
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let ports = slice.ports.iter().filter_map(|port| {
            let (protocol, number) = (Protocol::of(port.protocol.0)?, port.port?);
            Some(Port { name: port.name.as_str().into(), protocol, port: number })
        });
        let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
            let address = match endpoint.addresses {
                FirstAddress::Usable(address) => address.to_ip(),
                // Not to be a backend of a proxy; to look it up does no harm.
                FirstAddress::Unfit(address) => address,
                FirstAddress::None => return None,
            };
            (address.is_ipv4() == is_v4).then(|| Endpoint {
                address,
                hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
                // "Unknown" is to be taken for ready (the API's words).
                is_ready: endpoint.conditions.ready.unwrap_or(true),
            })
        });
        Some(Slice { service: service.into(), ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        let object = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec});
        Service::from_api(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_service_leads_to_its_addresses_its_endpoints_another_name_or_nowhere() {
        let both = service(json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{"name": "http", "port": 80}, {"name": "q", "port": 9, "protocol": "UDP"}]}));
        let expected = ["10.96.0.7", "fd00::7"].map(|ip| ip.parse().unwrap());
        assert_eq!(both.place, Place::Addresses(expected.into()));
        assert_eq!((both.ports[1].protocol, both.ports[1].port), (Protocol::Udp, 9));
        let headless = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        assert_eq!(headless.place, Place::Headless { even_unready: true });
        let external = service(json!({"type": "ExternalName", "externalName": "DB.example.org."}));
        assert_eq!(external.place, Place::External("db.example.org".into()));
        assert_eq!(service(json!({})).place, Place::Nowhere);
    }

    #[test]
    fn a_slice_has_the_first_address_of_each_endpoint_and_unknown_counts_as_ready() {
        let object = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "all"}],
            "endpoints": [{"addresses": ["10.1.0.1", "10.1.0.2"], "hostname": "web-0", "conditions": {"ready": false}},
                {"addresses": ["10.1.0.3"]}, {"addresses": ["fd00::1"]}]});
        let slice = Slice::from_api(&serde_json::from_value(object.clone()).unwrap()).unwrap();
        assert_eq!((&*slice.service, slice.ports.len(), slice.endpoints.len()), ("web", 1, 2));
        assert_eq!((slice.endpoints[0].label(), slice.endpoints[0].is_ready), ("web-0".to_owned(), false));
        assert_eq!((slice.endpoints[1].label(), slice.endpoints[1].is_ready), ("10-1-0-3".to_owned(), true));
        let mut names = object;
        names["addressType"] = "FQDN".into();
        assert!(Slice::from_api(&serde_json::from_value(names).unwrap()).is_none());
    }

    #[test]
    fn addresses_become_labels_and_back() {
        for (address, label) in [("10.244.0.7", "10-244-0-7"), ("fd00::7", "fd00--7"), ("::1", "--1")] {
            let ip = address.parse().unwrap();
            assert_eq!(dashed(ip), label);
            assert_eq!(undashed(label), Some(ip));
        }
        assert_eq!(undashed("0--1"), Some("::1".parse().unwrap()));
        for no in ["10-244-0", "10-244-0-256", "web", "", "a-b-c-d"] {
            assert_eq!(undashed(no), None, "{no}");
        }
    }
}
