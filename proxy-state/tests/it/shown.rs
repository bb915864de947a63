//! What stands at a frontend, as text.

use crate::world::World;
use proxy_abi::{Addr, Be16, Frontend, FrontendKey, Window, frontend_flag, frontend_kind, proto};
use serde_json::{Value, json};
use std::net::IpAddr;

pub fn key(ip: &str, port: u16, protocol: u8) -> FrontendKey {
    let addr = ip.parse::<IpAddr>().unwrap().into();
    FrontendKey { addr, port: Be16::new(port), proto: protocol, kind: frontend_kind::ADDRESS }
}

pub fn node_port(port: u16) -> FrontendKey {
    let kind = frontend_kind::NODE_PORT_V4;
    FrontendKey { addr: Addr::UNSPECIFIED, port: Be16::new(port), proto: proto::TCP, kind }
}

/// `10.0.0.1:8080 10.0.0.2:8080`, or what stands there instead; terminating ones with a `-` behind.
pub fn backends(world: &World, key: FrontendKey) -> String {
    let Some(frontend) = world.maps.frontends.get(&key) else { return "nothing".to_owned() };
    shown(world, frontend, frontend.inside)
}

/// As [`backends`], for clients outside.
pub fn backends_outside(world: &World, key: FrontendKey) -> String {
    let Some(frontend) = world.maps.frontends.get(&key) else { return "nothing".to_owned() };
    shown(world, frontend, frontend.outside)
}

pub fn shown(world: &World, frontend: &Frontend, window: Window) -> String {
    let run = &world.maps.slots[window.first as usize..window.end() as usize];
    let mut shown: Vec<String> = run
        .iter()
        .map(|slot| format!("{}:{}{}", slot.addr, slot.port, if slot.flags == 0 { "" } else { "-" }))
        .collect();
    shown.sort();
    if shown.is_empty() {
        let drops = frontend.flags & frontend_flag::DROP_IF_EMPTY != 0;
        shown.push(if drops { "drop" } else { "reject" }.to_owned());
    }
    shown.join(" ")
}

pub fn web(world: &World) -> String {
    backends(world, key("10.96.0.1", 80, proto::TCP))
}

/// (address, node, ready, serving, terminating)
pub fn endpoints(slice: &mut Value, list: &[(&str, &str, bool, bool, bool)]) {
    slice["endpoints"] = list
        .iter()
        .map(|(ip, node, ready, serving, terminating)| {
            json!({"addresses": [ip], "nodeName": node,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
}
