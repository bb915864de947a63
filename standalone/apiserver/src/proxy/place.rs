//! What a name below `proxy` means: which port of which pod, node or Service, and by which scheme.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::{
    api::{Api, Call, built_in, parse},
    error::ApiError,
    list::{self, Filter},
    object::{self, text},
    selectors::LabelSelector,
};

/// Where upstream's node agent listens: the node's own server is meant.
const NODE_AGENT: &str = "10250";

/// What the request goes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub is_tls: bool,
    pub to: To,
}

#[derive(Debug, PartialEq, Eq)]
pub enum To {
    /// The node agent's own paths.
    NodeAgent {
        node: String,
    },
    /// A port of the node's own address.
    Node {
        node: String,
        port: u16,
    },
    Pod {
        node: String,
        namespace: String,
        name: String,
        uid: String,
        address: IpAddr,
        port: u16,
    },
    /// An endpoint that is no pod.
    Address(SocketAddr),
}

impl Place {
    /// Finds out by what is stored now.
    ///
    /// # Errors
    /// 404 for an object that is not there, 400 for a name that is none or an object without an address, 503
    /// for a Service without the port or without endpoints.
    pub async fn find(api: &Api, call: &Call) -> Result<Place, ApiError> {
        let kind = call.kind;
        let asked = &call.request.name;
        let Some((scheme, name, port)) = split(asked) else {
            return Err(ApiError::bad_request(format!("invalid {} request {asked:?}", kind.singular)));
        };
        let object = api.object(kind, &call.request.namespace, name).await?;
        let subject = crate::error::Subject::new(kind, name);
        let object = object.ok_or_else(|| ApiError::not_found(subject))?;
        let is_tls = scheme == "https";
        let to = match kind.plural {
            "nodes" => to_node(name, port)?,
            "pods" => to_pod(&object, port, is_tls)?,
            _ => {
                let endpoints = endpoints(api, &call.request.namespace, name).await?;
                let wanted = service_port(&object, name, port)?;
                let ready = ready_endpoints(&endpoints, &wanted);
                if ready.is_empty() {
                    let why = format!("no endpoints available for service {name:?}");
                    return Err(ApiError::unavailable(why));
                }
                to_endpoint(api, &call.request.namespace, &ready[rand::random_range(0..ready.len())]).await?
            }
        };
        Ok(Place { is_tls, to })
    }

    /// The `Host` of the request.
    pub fn host(&self) -> String {
        match &self.to {
            To::NodeAgent { node } => node.clone(),
            To::Node { node, port } => format!("{node}:{port}"),
            To::Pod { address, port, .. } => SocketAddr::new(*address, *port).to_string(),
            To::Address(address) => address.to_string(),
        }
    }
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`, of which scheme and port may be empty.
fn split(asked: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = asked.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

fn number(port: &str) -> Result<u16, ApiError> {
    let number = port.parse::<u16>().ok().filter(|port| *port != 0);
    number.ok_or_else(|| ApiError::bad_request(format!("port {port:?} must be a number from 1 to 65535")))
}

fn to_node(name: &str, port: &str) -> Result<To, ApiError> {
    let node = name.to_owned();
    match port {
        "" | NODE_AGENT => Ok(To::NodeAgent { node }),
        port => Ok(To::Node { node, port: number(port)? }),
    }
}

/// Without a port the first that one of its containers names, else the scheme's.
fn to_pod(pod: &Value, port: &str, is_tls: bool) -> Result<To, ApiError> {
    let named = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|container| container.pointer("/ports/0/containerPort")?.as_u64());
    let port = match (port, named) {
        ("", Some(port)) => u16::try_from(port).unwrap_or_default(),
        ("", None) => {
            if is_tls {
                443
            } else {
                80
            }
        }
        (port, _) => number(port)?,
    };
    let address = text(pod, "/status/podIP").parse().ok().filter(|address| is_allowed(*address));
    let node = text(pod, "/spec/nodeName").to_owned();
    match address {
        Some(address) if !node.is_empty() => Ok(To::Pod {
            node,
            namespace: text(pod, "/metadata/namespace").to_owned(),
            name: object::name(pod).to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            address,
            port,
        }),
        _ => Err(ApiError::bad_request("address not allowed")),
    }
}

/// Not the machine's own loopback, nor what belongs to a link: who may ask for a proxy may not reach the
/// server's insides.
fn is_allowed(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local)
}

/// The name of the Service's port, by which its endpoints have it; `None`: any.
fn service_port(service: &Value, name: &str, port: &str) -> Result<Option<String>, ApiError> {
    if port.is_empty() {
        return Ok(None);
    }
    let Ok(number) = port.parse::<u64>() else { return Ok(Some(port.to_owned())) };
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.into_iter().find(|found| found["port"].as_u64() == Some(number));
    let found = found.ok_or_else(|| {
        ApiError::unavailable(format!("no service port {number} found for service {name:?}"))
    })?;
    Ok(Some(text(found, "/name").to_owned()))
}

async fn endpoints(api: &Api, namespace: &str, service: &str) -> Result<Vec<Value>, ApiError> {
    let kind = built_in("discovery.k8s.io", "v1", "endpointslices")?;
    let labels = LabelSelector::parse(&format!("kubernetes.io/service-name={service}"))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let filter = Filter { labels, ..Filter::default() };
    let page = list::select(api, kind, namespace, &filter, None, None, 0).await?;
    page.entries.iter().map(|entry| parse(kind, entry)).collect()
}

/// An endpoint with the port that is wanted of it.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    port: u16,
    /// The pod's name.
    pod: Option<String>,
}

fn ready_endpoints(slices: &[Value], wanted: &Option<String>) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let mut matching = ports.into_iter().filter(|port| {
            wanted.as_ref().is_none_or(|wanted| text(port, "/name") == wanted)
                && text(port, "/protocol") != "UDP"
        });
        let Some(port) = matching.find_map(|port| u16::try_from(port["port"].as_u64()?).ok()) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let is_ready = endpoint["conditions"]["ready"] != false;
            let Some(address) = text(endpoint, "/addresses/0").parse().ok().filter(|_| is_ready) else {
                continue;
            };
            let pod = (text(endpoint, "/targetRef/kind") == "Pod")
                .then(|| text(endpoint, "/targetRef/name").to_owned());
            found.push(Endpoint { address, port, pod });
        }
    }
    found
}

async fn to_endpoint(api: &Api, namespace: &str, endpoint: &Endpoint) -> Result<To, ApiError> {
    let Endpoint { address, port, pod } = endpoint;
    if let Some(pod) = pod
        && let Some(pod) = api.object(built_in("", "v1", "pods")?, namespace, pod).await?
        && let To::Pod { node, namespace, name, uid, .. } = to_pod(&pod, &port.to_string(), false)?
    {
        return Ok(To::Pod { node, namespace, name, uid, address: *address, port: *port });
    }
    if !is_allowed(*address) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(To::Address(SocketAddr::new(*address, *port)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let cases = [
            ("p", Some(("", "p", ""))),
            ("p:80", Some(("", "p", "80"))),
            ("https:p:443", Some(("https", "p", "443"))),
            ("https:p:", Some(("https", "p", ""))),
            (":p:web", Some(("", "p", "web"))),
            ("ftp:p:21", None),
            (":80", None),
            ("a:b:c:d", None),
        ];
        for (asked, expected) in cases {
            assert_eq!(split(asked), expected, "{asked}");
        }
    }

    fn pod(address: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"nodeName": "node", "containers": [
            {"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]}, "status": {"podIP": address}})
    }

    #[test]
    fn a_pods_port_is_the_one_asked_for_or_its_first() {
        let port = |asked: &str| match to_pod(&pod("10.0.0.1"), asked, false) {
            Ok(To::Pod { port, .. }) => Ok(port),
            other => Err(format!("{other:?}")),
        };
        assert_eq!((port(""), port("9")), (Ok(8080), Ok(9)));
        assert!(port("0").is_err() && port("web").is_err() && port("65536").is_err());
    }

    #[test]
    fn addresses_of_the_servers_insides_are_refused() {
        for address in ["", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"] {
            let refused = to_pod(&pod(address), "80", false).unwrap_err();
            assert_eq!(
                (refused.code(), refused.to_string().as_str()),
                (400, "address not allowed"),
                "{address}"
            );
        }
    }

    #[test]
    fn a_services_port_is_found_by_number_and_name_among_ready_endpoints() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
        assert_eq!(service_port(&service, "s", "80").unwrap().as_deref(), Some("web"));
        assert_eq!(service_port(&service, "s", "web").unwrap().as_deref(), Some("web"));
        let refused = service_port(&service, "s", "81").unwrap_err();
        assert_eq!(
            (refused.code(), refused.to_string().as_str()),
            (503, "no service port 81 found for service \"s\"")
        );
        let slice = json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "p"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]}]});
        let expected = [
            Endpoint { address: "10.0.0.1".parse().unwrap(), port: 8080, pod: Some("p".to_owned()) },
            Endpoint { address: "10.0.0.3".parse().unwrap(), port: 8080, pod: None },
        ];
        let slices = [slice];
        assert_eq!(ready_endpoints(&slices, &Some("web".to_owned())), expected);
        assert_eq!(ready_endpoints(&slices, &None), expected, "any port that speaks TCP");
        assert!(ready_endpoints(&slices, &Some("admin".to_owned())).is_empty());
    }
}
