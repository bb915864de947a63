//! The file: YAML or JSON, read by field so that a refusal names the field.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use proxy_abi::{Addr, proto};
use proxy_state::{parse_cidr, prefix};
use serde_json::{Map, Value};

/// What the balancer is to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub vips: Vec<Vip>,
    /// This machine's addresses that backends see, one a family; the device's own where the file names none.
    pub sources: Vec<IpAddr>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Vip {
    pub address: SocketAddr,
    /// One of `proxy_abi::proto`.
    pub proto: u8,
    /// The backend answers the client itself.
    pub is_direct: bool,
    /// Elements of its Maglev table at least; 0: backends are drawn at random.
    pub maglev: u32,
    /// Who may use it: prefixes with their length in the 128-bit form (an IPv4 /24 is 120). `None`: everyone.
    pub allowed: Option<Vec<(Addr, u32)>>,
    pub backends: Vec<Backend>,
    pub check: Option<Check>,
    pub when_all_down: WhenAllDown,
}

/// Who gets new flows when the checks say that no backend lives. More often than all backends the check
/// itself is at fault, or the way that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenAllDown {
    #[default]
    All,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    pub address: SocketAddr,
    /// Share of the new flows, against the others'. At least 1.
    pub weight: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Check {
    /// The path that is asked for over HTTP; none: a TCP connection suffices.
    pub path: Option<String>,
    /// Another port than the backend's.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row until a dead backend lives again, failures in a row until a living one is dead.
    pub rise: u32,
    pub fall: u32,
}

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is neither YAML nor JSON: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("{path}: {field}: {problem}")]
    Field { path: PathBuf, field: String, problem: String },
}

type Field<T> = Result<T, (String, String)>;

/// The largest weight of a backend.
pub const MAX_WEIGHT: u64 = 256;
/// Elements of a Maglev table at least, where a file asks for one.
const MAGLEV_SIZE: u32 = 4_093;
/// Where kube-proxy, and Skerry's agent in its place, says whether a node takes traffic (KEP-3836).
pub const NODE_PORT: u16 = 10_256;
pub const NODE_PATH: &str = "/healthz";
const INTERVAL_MS: u64 = 2_000;
const TIMEOUT_MS: u64 = 1_000;

impl Config {
    /// # Errors
    /// The file can't be read, or one of its fields says what can't be done.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let value: Value = serde_saphyr::from_str(&text)
            .map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
        Config::from_value(&value).map_err(|(field, problem)| ConfigError::Field {
            path: path.to_owned(),
            field,
            problem,
        })
    }

    fn from_value(value: &Value) -> Field<Config> {
        let root = Node::root(value).object(&["vips", "sources"])?;
        let mut vips: Vec<Vip> = Vec::new();
        for node in root.need("vips")?.list()? {
            let vip = vip(&node)?;
            if vips.iter().any(|other| other.address == vip.address && other.proto == vip.proto) {
                return node.wrong(&format!("{} is there already: join their backends", vip.address));
            }
            vips.push(vip);
        }
        let sources = match root.get("sources") {
            Some(list) => list.list()?.iter().map(Node::ip).collect::<Field<_>>()?,
            None => Vec::new(),
        };
        Ok(Config { vips, sources })
    }
}

fn vip(node: &Node<'_>) -> Field<Vip> {
    let fields = node.object(&[
        "address",
        "port",
        "protocol",
        "mode",
        "balancing",
        "sourceRanges",
        "backends",
        "healthCheck",
        "whenAllDown",
    ])?;
    let address = SocketAddr::new(fields.need("address")?.ip()?, fields.need("port")?.port()?);
    let proto = match fields.get("protocol") {
        Some(node) => node.one_of(&[("TCP", proto::TCP), ("UDP", proto::UDP)])?,
        None => proto::TCP,
    };
    let is_direct = match fields.get("mode") {
        Some(node) => node.one_of(&[("snat", false), ("dsr", true)])?,
        None => false,
    };
    let maglev = match fields.get("balancing") {
        Some(node) => node.one_of(&[("maglev", MAGLEV_SIZE), ("random", 0)])?,
        None => MAGLEV_SIZE,
    };
    let ranges = fields.get("sourceRanges").map(|node| node.list()).transpose()?;
    let range = |node: &Node<'_>| node.range(address.is_ipv4());
    let allowed = ranges.map(|list| list.iter().map(range).collect::<Field<_>>()).transpose()?;
    let mut backends = Vec::new();
    for node in fields.need("backends")?.list()? {
        let backend = backend(&node, address.port())?;
        if backend.address.is_ipv4() != address.is_ipv4() {
            return node.at("address").wrong("is of another family than the virtual address");
        }
        if is_direct && backend.address.port() != address.port() {
            return node.at("port").wrong("mode dsr changes no port: write the virtual one, or mode snat");
        }
        if backends.iter().any(|other: &Backend| other.address == backend.address) {
            return node.wrong("is there twice: raise its weight instead");
        }
        backends.push(backend);
    }
    let check = fields.get("healthCheck").map(|node| check(&node)).transpose()?;
    let when_all_down = match fields.get("whenAllDown") {
        Some(node) => node.one_of(&[("all", WhenAllDown::All), ("none", WhenAllDown::None)])?,
        None => WhenAllDown::All,
    };
    Ok(Vip { address, proto, is_direct, maglev, allowed, backends, check, when_all_down })
}

fn backend(node: &Node<'_>, port: u16) -> Field<Backend> {
    let fields = node.object(&["address", "port", "weight"])?;
    let port = fields.get("port").map_or(Ok(port), |node| node.port())?;
    let weight = fields.get("weight").map_or(Ok(1), |node| node.number(1, MAX_WEIGHT))?;
    Ok(Backend { address: SocketAddr::new(fields.need("address")?.ip()?, port), weight: weight as u32 })
}

fn check(node: &Node<'_>) -> Field<Check> {
    let fields = node.object(&["type", "path", "port", "interval", "timeout", "rise", "fall"])?;
    #[derive(Clone, Copy)]
    enum Type {
        Tcp,
        Http,
        Node,
    }
    let asked =
        fields.need("type")?.one_of(&[("tcp", Type::Tcp), ("http", Type::Http), ("node", Type::Node)])?;
    let path = match (asked, fields.get("path")) {
        (Type::Tcp | Type::Node, Some(path)) => return path.wrong("belongs to type http"),
        (Type::Tcp, None) => None,
        (Type::Node, None) => Some(NODE_PATH.to_owned()),
        (Type::Http, None) => Some("/".to_owned()),
        (Type::Http, Some(path)) => match path.text()? {
            text if text.starts_with('/') && !text.contains(char::is_whitespace) => Some(text.to_owned()),
            _ => return path.wrong("is no path: write one such as /healthz"),
        },
    };
    let count = |name: &str, default| fields.get(name).map_or(Ok(default), |node| node.number(1, 100));
    let time = |name: &str, default| {
        fields.get(name).map_or(Ok(Duration::from_millis(default)), |node| node.duration())
    };
    Ok(Check {
        path,
        port: match (asked, fields.get("port").map(|node| node.port()).transpose()?) {
            (Type::Node, None) => Some(NODE_PORT),
            (_, port) => port,
        },
        interval: time("interval", INTERVAL_MS)?,
        timeout: time("timeout", TIMEOUT_MS)?,
        rise: count("rise", 2)? as u32,
        fall: count("fall", 3)? as u32,
    })
}

/// A value and where it stands.
struct Node<'a> {
    path: String,
    value: &'a Value,
}

/// An object whose fields are all known.
struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<Node<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(Node { path: join(&self.path, name), value })
    }

    fn need(&self, name: &str) -> Field<Node<'a>> {
        self.get(name).ok_or_else(|| (join(&self.path, name), "is missing".to_owned()))
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl<'a> Node<'a> {
    fn root(value: &'a Value) -> Node<'a> {
        Node { path: String::new(), value }
    }

    fn at(&self, name: &str) -> Node<'a> {
        Node { path: join(&self.path, name), value: self.value }
    }

    fn wrong<T>(&self, problem: &str) -> Field<T> {
        let path = if self.path.is_empty() { "the file".to_owned() } else { self.path.clone() };
        Err((path, problem.to_owned()))
    }

    fn object(&self, known: &[&str]) -> Field<Fields<'a>> {
        let Some(map) = self.value.as_object() else { return self.wrong("is no object") };
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(unknown) => {
                Err((join(&self.path, unknown), format!("is not known: there are {}", known.join(", "))))
            }
            None => Ok(Fields { path: self.path.clone(), map }),
        }
    }

    fn list(&self) -> Field<Vec<Node<'a>>> {
        let Some(list) = self.value.as_array() else { return self.wrong("is no list") };
        let node = |(index, value)| Node { path: format!("{}[{index}]", self.path), value };
        Ok(list.iter().enumerate().map(node).collect())
    }

    fn text(&self) -> Field<&'a str> {
        self.value.as_str().map_or_else(|| self.wrong("is no text"), Ok)
    }

    fn ip(&self) -> Field<IpAddr> {
        let text = self.text()?;
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() => {
                self.wrong(&format!("{text} is no address that packets come to"))
            }
            Ok(ip) => Ok(ip.to_canonical()),
            Err(_) => self.wrong(&format!("`{text}` is no IP address: write one such as 192.0.2.1")),
        }
    }

    fn range(&self, is_v4: bool) -> Field<(Addr, u32)> {
        let text = self.text()?;
        match parse_cidr(text) {
            Some(cidr) if cidr.is_ipv4() == is_v4 => Ok(prefix(cidr)),
            Some(_) => self.wrong("is of another family than the virtual address"),
            None => self.wrong(&format!("`{text}` is no range: write one such as 192.0.2.0/24")),
        }
    }

    fn number(&self, least: u64, most: u64) -> Field<u64> {
        match self.value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            _ => self.wrong(&format!("{} is no number from {least} to {most}", self.value)),
        }
    }

    fn port(&self) -> Field<u16> {
        Ok(self.number(1, u64::from(u16::MAX))? as u16)
    }

    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Field<T> {
        let text = self.text()?;
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.wrong(&format!("`{text}` is none of {}", names.join(", ")))
            }
        }
    }

    /// `500ms`, `2s`, `1m`; a bare number counts seconds.
    fn duration(&self) -> Field<Duration> {
        if let Some(seconds) = self.value.as_u64().filter(|seconds| (1..=3_600).contains(seconds)) {
            return Ok(Duration::from_secs(seconds));
        }
        let text = self.value.as_str().unwrap_or_default();
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let step = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => 0,
        };
        match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(step)) {
            Some(ms) if (10..=3_600_000).contains(&ms) => Ok(Duration::from_millis(ms)),
            _ => self.wrong(&format!("{} is no time from 10ms to 1h: write 500ms, 2s or 1m", self.value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Field<Config> {
        Config::from_value(&serde_saphyr::from_str(text).unwrap())
    }

    #[test]
    fn a_file_is_read_with_its_defaults() {
        let config = read(
            "vips:\n- address: 192.0.2.1\n  port: 80\n  mode: dsr\n  backends: [{address: 10.0.0.1, weight: 2}]\n  \
             healthCheck: {type: http, path: /ok, interval: 500ms, fall: 2}\n",
        )
        .unwrap();
        let vip = &config.vips[0];
        assert!(vip.is_direct && vip.maglev == MAGLEV_SIZE && vip.proto == proto::TCP);
        assert_eq!(vip.backends, [Backend { address: "10.0.0.1:80".parse().unwrap(), weight: 2 }]);
        let check = vip.check.as_ref().unwrap();
        assert_eq!((check.path.as_deref(), check.interval.as_millis(), check.rise), (Some("/ok"), 500, 2));
        assert_eq!(vip.when_all_down, WhenAllDown::All);
    }

    #[test]
    fn a_node_is_asked_for_itself_and_not_for_what_answers_at_its_node_port() {
        let text = "vips: [{address: 192.0.2.1, port: 80, backends: [{address: 10.0.0.1, port: 30080}], \
                    healthCheck: {type: node}, whenAllDown: none}]";
        let vip = &read(text).unwrap().vips[0];
        let check = vip.check.as_ref().unwrap();
        assert_eq!((check.path.as_deref(), check.port), (Some("/healthz"), Some(10_256)));
        assert_eq!(vip.when_all_down, WhenAllDown::None);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let vip = |rest: &str| format!("vips: [{{address: 192.0.2.1, port: 80, {rest}}}]");
        for (text, field) in [
            ("vip: []".to_owned(), "vip"),
            ("vips: 3".to_owned(), "vips"),
            (vip("backends: [{address: x}]"), "vips[0].backends[0].address"),
            (vip("backends: [{address: 10.0.0.1, port: 0}]"), "vips[0].backends[0].port"),
            (vip("backends: [{address: '2001:db8::1'}]"), "vips[0].backends[0].address"),
            (vip("mode: dsr, backends: [{address: 10.0.0.1, port: 81}]"), "vips[0].backends[0].port"),
            (vip("mode: nat, backends: []"), "vips[0].mode"),
            (vip("sourceRanges: [10.0.0.0], backends: []"), "vips[0].sourceRanges[0]"),
            (vip("sourceRanges: ['fd00::/8'], backends: []"), "vips[0].sourceRanges[0]"),
            (vip("backends: [], healthCheck: {type: tcp, path: /}"), "vips[0].healthCheck.path"),
            (vip("backends: [], healthCheck: {type: tcp, timeout: soon}"), "vips[0].healthCheck.timeout"),
            (vip("backends: [], healthCheck: {type: node, path: /}"), "vips[0].healthCheck.path"),
            (vip("backends: [], whenAllDown: some"), "vips[0].whenAllDown"),
            (vip("protocol: TCP"), "vips[0].backends"),
        ] {
            assert_eq!(read(&text).unwrap_err().0, field, "{text}");
        }
    }
}
