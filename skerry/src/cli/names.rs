//! Numbers and bits of the maps in words.

use proxy_abi::{Addr, Be16, endpoint_flag, flow_flag, flow_state, frontend_flag, frontend_kind, proto};
use serde_json::{Value, json};

pub fn protocol(number: u8) -> String {
    let named = if number == 0 { Some("any") } else { proto::name(number) };
    named.map_or_else(|| number.to_string(), str::to_owned)
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
pub fn socket(addr: Addr, port: Be16) -> String {
    std::net::SocketAddr::new(addr.to_ip(), port.get()).to_string()
}

pub fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// `None` for an address that is not there.
pub fn address(addr: Addr) -> Value {
    if addr.is_unspecified() { Value::Null } else { json!(addr.to_string()) }
}

pub fn frontend_kind(kind: u8) -> &'static str {
    match kind {
        frontend_kind::ADDRESS => "address",
        frontend_kind::NODE_PORT_V4 => "node-port-v4",
        frontend_kind::NODE_PORT_V6 => "node-port-v6",
        _ => "unknown",
    }
}

pub fn frontend_flags(flags: u32) -> Value {
    words(
        flags,
        &[
            (frontend_flag::CLUSTER_IP, "cluster-ip"),
            (frontend_flag::NODE_PORT, "node-port"),
            (frontend_flag::EXTERNAL_IP, "external-ip"),
            (frontend_flag::LOAD_BALANCER, "load-balancer"),
            (frontend_flag::LOCAL_ONLY, "local-only"),
            (frontend_flag::DROP_IF_EMPTY, "drop-if-empty"),
            (frontend_flag::SOURCE_RANGES, "source-ranges"),
            (frontend_flag::MAGLEV, "maglev"),
            (frontend_flag::DIRECT, "direct"),
        ],
    )
}

pub fn endpoint_flags(flags: u16) -> Value {
    words(
        flags.into(),
        &[
            (endpoint_flag::POD.into(), "pod"),
            (endpoint_flag::NODE.into(), "node"),
            (endpoint_flag::ROUTER.into(), "router"),
            (endpoint_flag::NODE_PORT.into(), "node-port"),
        ],
    )
}

pub fn flow_flags(flags: u16) -> Value {
    words(
        flags.into(),
        &[
            (flow_flag::REVERSE.into(), "reverse"),
            (flow_flag::DNAT.into(), "dnat"),
            (flow_flag::SNAT.into(), "snat"),
            (flow_flag::FROM_UPLINK.into(), "from-uplink"),
            (flow_flag::FIN.into(), "fin"),
            (flow_flag::DIRECT.into(), "direct"),
            (flow_flag::RESET.into(), "reset"),
            (flow_flag::SETTLED.into(), "settled"),
        ],
    )
}

pub fn flow_state(state: u8) -> &'static str {
    match state {
        flow_state::EMBRYONIC => "embryonic",
        flow_state::ESTABLISHED => "established",
        flow_state::CLOSING => "closing",
        _ => "unknown",
    }
}

/// Names of the bits that are set; those without a name as a number.
fn words(flags: u32, names: &[(u32, &str)]) -> Value {
    let known = names.iter().fold(0, |known, (bit, _)| known | bit);
    let named = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned());
    let rest = (flags & !known != 0).then(|| format!("{:#x}", flags & !known));
    Value::Array(named.chain(rest).map(Value::String).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_without_a_name_are_shown_too() {
        assert_eq!(frontend_flags(frontend_flag::CLUSTER_IP | 1 << 30), json!(["cluster-ip", "0x40000000"]));
        assert_eq!(endpoint_flags(0), json!([]));
    }
}
