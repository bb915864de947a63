//! The network configuration on standard input.

use std::{net::IpAddr, path::PathBuf};

use rscni_types::{error::Error, types::GcAttachment, version::SpecVersion};
use serde_json::{Map, Value};

use crate::{datapath::Hooks, range::Range};

/// What a pod may send, in bytes, where neither the configuration nor the agent says: Ethernet less VXLAN's
/// 50.
pub const DEFAULT_MTU: u32 = 1450;
/// The least that IPv6 may have on a link (RFC 8200 section 5), and more than IPv4 asks for.
const MIN_MTU: u64 = 1280;
const MAX_MTU: u64 = 65_535;
/// More ranges than this are a mistake.
const MAX_RANGES: usize = 32;

/// What the injectors of Istio, Linkerd, Consul and Kuma write on a pod that they have put a sidecar into.
const SIDECARS: [&str; 4] = [
    "sidecar.istio.io/status",
    "linkerd.io/proxy-version",
    "consul.hashicorp.com/connect-inject-status",
    "kuma.io/sidecar-injected",
];

/// A configuration whose syntax is right. What only ADD needs is looked at only there ([`Conf::ranges`] …): a
/// DEL must work with a configuration that has gone bad since.
#[derive(Debug, Default)]
pub struct Conf {
    fields: Map<String, Value>,
}

impl Conf {
    pub fn parse(text: &[u8]) -> Result<Conf, Error> {
        match serde_json::from_slice(text) {
            Ok(Value::Object(fields)) => Ok(Conf { fields }),
            Ok(_) => Err(Error::FailedToDecode("the network configuration is no JSON object".into())),
            Err(e) => Err(Error::FailedToDecode(format!("the network configuration is no JSON: {e}"))),
        }
    }

    /// Absent or empty means 0.1.0 (the field came with 0.2.0).
    pub fn version(&self) -> Result<SpecVersion, Error> {
        match self.text("cniVersion")? {
            None | Some("") => Ok(SpecVersion::new(0, 1, 0)),
            Some(version) => version.parse(),
        }
    }

    /// The network's name, by the specification's rule: letters, digits, `_`, `.`, `-`, the first no
    /// punctuation.
    pub fn name(&self) -> Result<&str, Error> {
        let name = self.text("name")?.unwrap_or_default();
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(known) {
            return Ok(name);
        }
        Err(invalid(
            "name",
            format!("{name:?} is no name of a network: use letters, digits, '_', '.' and '-'"),
        ))
    }

    /// containerd before 2.0 sets a pod's `lo` up by a plugin of this type, which it wants beside the
    /// network's.
    pub fn is_loopback(&self) -> bool {
        self.field("type").and_then(Value::as_str) == Some("loopback")
    }

    pub fn mtu(&self) -> Result<Option<u32>, Error> {
        match self.field("mtu") {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(mtu @ MIN_MTU..=MAX_MTU) => Ok(Some(mtu as u32)),
                _ => {
                    Err(invalid("mtu", format!("{value} is no number of bytes from {MIN_MTU} to {MAX_MTU}")))
                }
            },
        }
    }

    /// At least one; IPv4 and IPv6 in any order. A pod gets one address of each family that is there.
    pub fn ranges(&self) -> Result<Vec<Range>, Error> {
        let texts = self.texts("ranges")?;
        if texts.is_empty() {
            return Err(invalid("ranges", "at least one pod CIDR of this node must stand here".into()));
        }
        if texts.len() > MAX_RANGES {
            return Err(invalid("ranges", format!("{} ranges; at most {MAX_RANGES}", texts.len())));
        }
        texts.iter().map(|text| Range::parse(text).map_err(|e| invalid("ranges", e.to_string()))).collect()
    }

    pub fn pin_root(&self) -> Result<PathBuf, Error> {
        self.path("pinRoot", proxy_abi::PIN_ROOT)
    }

    /// `attach`: `clsact` (filters: what the agent writes; quicker, and for kernels before 6.6) or `tcx`
    /// (pinned links: where nothing is said).
    pub fn hooks(&self) -> Result<Hooks, Error> {
        match self.text("attach")? {
            None | Some("tcx") => Ok(Hooks::Tcx),
            Some("clsact") => Ok(Hooks::Clsact),
            Some(other) => Err(invalid("attach", format!("{other:?} is neither \"tcx\" nor \"clsact\""))),
        }
    }

    pub fn state_dir(&self) -> Result<PathBuf, Error> {
        self.path("stateDir", "/run/skerry/cni")
    }

    /// Where the boot's own id stands. Only tests say so otherwise.
    pub fn boot_id_file(&self) -> Result<PathBuf, Error> {
        self.path("bootIdFile", "/proc/sys/kernel/random/boot_id")
    }

    /// Addresses that the runtime asks for (`runtimeConfig.ips`, else `args.cni.ips`), a prefix length cut
    /// off.
    pub fn requested_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let Some((field, value)) = self.capability("ips") else { return Ok(Vec::new()) };
        let texts =
            value.as_array().ok_or_else(|| invalid(field, format!("{value} is no list of addresses")))?;
        texts.iter().map(|text| parse_address(field, text)).collect()
    }

    /// A hardware address that the runtime asks for (`runtimeConfig.mac`, else `args.cni.mac`).
    pub fn requested_mac(&self) -> Result<Option<[u8; 6]>, Error> {
        let Some((field, value)) = self.capability("mac") else { return Ok(None) };
        let mac = value.as_str().and_then(parse_mac).ok_or_else(|| {
            invalid(field, format!("{value} is no unicast hardware address like 02:00:00:00:00:01"))
        })?;
        Ok(Some(mac))
    }

    /// Whether the socket hooks must leave the pod alone, as its annotations say (`runtimeConfig`, by
    /// containerd and CRI-O): in words (`skerry.io/socket-lb`), or because a mesh's injector has put a
    /// sidecar into it, which must see what is dialled.
    pub fn is_left_out(&self) -> Result<bool, Error> {
        const OURS: &str = "skerry.io/socket-lb";
        let Some((field, value)) = self.capability("io.kubernetes.cri.pod-annotations") else {
            return Ok(false);
        };
        let annotations =
            value.as_object().ok_or_else(|| invalid(field, format!("{value} is no set of annotations")))?;
        match annotations.get(OURS).and_then(Value::as_str) {
            Some("false") => Ok(true),
            Some("true") => Ok(false),
            Some(other) => {
                Err(invalid(field, format!("annotation {OURS} is {other:?}: write \"true\" or \"false\"")))
            }
            None => Ok(SIDECARS.iter().any(|sidecar| annotations.contains_key(*sidecar))),
        }
    }

    /// The result of the plugins before us, as it came.
    pub fn previous(&self) -> Result<Option<&Map<String, Value>>, Error> {
        match self.field("prevResult") {
            None => Ok(None),
            Some(Value::Object(result)) => Ok(Some(result)),
            Some(_) => Err(invalid("prevResult", "no JSON object".into())),
        }
    }

    /// `None`: the field is absent, and a GC must not touch anything.
    pub fn valid_attachments(&self) -> Result<Option<Vec<GcAttachment>>, Error> {
        const FIELD: &str = "cni.dev/valid-attachments";
        match self.field(FIELD) {
            None => Ok(None),
            Some(value) => Vec::<GcAttachment>::deserialize(value)
                .map(Some)
                .map_err(|e| invalid(FIELD, format!("no list of {{containerID, ifname}}: {e}"))),
        }
    }

    fn capability(&self, name: &str) -> Option<(&'static str, &Value)> {
        let runtime = self.field("runtimeConfig").and_then(|c| c.get(name));
        let args = || self.field("args").and_then(|a| a.get("cni")).and_then(|c| c.get(name));
        let found = runtime.map(|v| ("runtimeConfig", v)).or_else(|| args().map(|v| ("args.cni", v)))?;
        (!found.1.is_null()).then_some(found)
    }

    /// Go's decoder takes `null` for absent, so runtimes send it.
    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(invalid(name, format!("{other} is no string"))),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<&str>, Error> {
        let Some(value) = self.field(name) else { return Ok(Vec::new()) };
        let strings = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        strings.flatten().ok_or_else(|| invalid(name, format!("{value} is no list of strings")))
    }

    fn path(&self, name: &str, default: &str) -> Result<PathBuf, Error> {
        let path = PathBuf::from(self.text(name)?.unwrap_or(default));
        if path.is_absolute() {
            return Ok(path);
        }
        Err(invalid(name, format!("{} is no absolute path", path.display())))
    }
}

use serde::Deserialize as _;

fn invalid(field: &str, what: String) -> Error {
    Error::InvalidNetworkConfig(format!("field {field:?} of the network configuration: {what}"))
}

fn parse_address(field: &str, value: &Value) -> Result<IpAddr, Error> {
    let text = value.as_str().unwrap_or_default();
    let address = text.split('/').next().unwrap_or_default();
    address.parse().map_err(|_| invalid(field, format!("{value} is no IP address")))
}

/// Six hexadecimal octets; no group address and not all zeroes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut octets = text.split(':');
    for octet in &mut mac {
        *octet = u8::from_str_radix(octets.next().filter(|o| o.len() == 2)?, 16).ok()?;
    }
    (octets.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn bad_fields_are_named_with_their_value() {
        let conf = |text: &str| Conf::parse(text.as_bytes()).unwrap();
        for (result, part) in [
            (error_of(conf(r#"{"mtu":"big"}"#).mtu()), r#"field "mtu""#),
            (error_of(conf(r#"{"mtu":100}"#).mtu()), "from 1280 to 65535"),
            (error_of(conf(r#"{"name":7}"#).name()), "7 is no string"),
            (error_of(conf(r#"{"name":"a/b"}"#).name()), r#""a/b""#),
            (error_of(conf(r#"{}"#).ranges()), "at least one pod CIDR"),
            (error_of(conf(r#"{"ranges":["10.0.0.0/99"]}"#).ranges()), "10.0.0.0/99"),
            (error_of(conf(r#"{"ranges":"10.0.0.0/9"}"#).ranges()), "no list of strings"),
            (error_of(conf(r#"{"stateDir":"run"}"#).state_dir()), "run is no absolute path"),
            (error_of(conf(r#"{"runtimeConfig":{"ips":["x"]}}"#).requested_addresses()), r#""x" is no IP"#),
            (
                error_of(conf(r#"{"runtimeConfig":{"mac":"01:00:00:00:00:00"}}"#).requested_mac()),
                "no unicast",
            ),
            (error_of(conf(r#"{"attach":"xdp"}"#).hooks()), r#""xdp" is neither"#),
            (error_of(conf(r#"{"prevResult":[]}"#).previous()), "prevResult"),
        ] {
            assert!(result.contains(part), "{result:?} should hold {part:?}");
        }
        assert!(error_of(Conf::parse(b"[]")).contains("no JSON object"));
        assert!(error_of(Conf::parse(b"{")).contains("no JSON: EOF"));
    }

    #[test]
    fn null_is_absent_and_unknown_fields_do_not_matter() {
        let conf = Conf::parse(
            br#"{"mtu":null,"prevResult":null,"pinRoot":null,"x":{},"runtimeConfig":{"ips":null}}"#,
        )
        .unwrap();
        assert_eq!(conf.mtu().unwrap(), None);
        assert!(conf.previous().unwrap().is_none());
        assert_eq!(conf.pin_root().unwrap(), PathBuf::from("/sys/fs/bpf/skerry"));
        assert!(conf.requested_addresses().unwrap().is_empty());
        assert_eq!(conf.version().unwrap(), SpecVersion::new(0, 1, 0));
    }

    #[test]
    fn requests_come_from_runtime_config_before_args() {
        let conf = Conf::parse(
            br#"{"runtimeConfig":{"ips":["10.0.0.5/24"]},"args":{"cni":{"ips":["10.0.0.6"],"mac":"0A:00:00:00:00:01"}}}"#,
        )
        .unwrap();
        assert_eq!(conf.requested_addresses().unwrap(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(conf.requested_mac().unwrap(), Some([10, 0, 0, 0, 0, 1]));
    }
}
