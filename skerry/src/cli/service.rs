//! `skerry service`: Services as this node serves them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use proxy_abi::{
    Addr, Be16, Flow, Frontend, FrontendKey, Slot, Tuple, Window, flow_flag, frontend_kind, map, proto,
    slot_flag,
};
use serde_json::{Value, json};

use super::{
    Format, Maps, Show,
    api::ApiOptions,
    names::{frontend_flags, protocol, socket},
    sheet::Sheet,
};

#[derive(Clone, Debug, Args)]
pub struct ServiceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Every address and port that is served here, by Service
    List(Options),
    /// One Service: what leads to it and where that leads
    Get {
        /// NAMESPACE/NAME
        name: String,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Clone, Debug, Args)]
struct Options {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    api: ApiOptions,
}

const FRONTENDS: &[&str] =
    &["service", "address", "protocol", "kind", "outside", "inside", "flows", "affinity-s", "flags"];

pub fn run(args: ServiceArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(options) => {
            let tables = Tables::read(&options.show)?;
            let names = match options.api.services() {
                Ok(services) => names(&services),
                Err(error) => {
                    eprintln!("skerry: without names: {error:#}");
                    BTreeMap::new()
                }
            };
            tables.sheet(&names, None).print(options.show.output);
        }
        Command::Get { name, options } => {
            let names = names(&options.api.services()?);
            ensure!(
                names.values().any(|known| *known == name),
                "no Service {name} with an address: write NAMESPACE/NAME, as `kubectl get services -A` shows them"
            );
            let tables = Tables::read(&options.show)?;
            let (frontends, backends) = (tables.sheet(&names, Some(&name)), tables.backends(&names, &name));
            match options.show.output {
                Format::Table => print!("{}\n{}", frontends.table(), backends.table()),
                Format::Json => {
                    let both = json!({"frontends": frontends.objects(), "backends": backends.objects()});
                    println!("{both:#}");
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a client dials, by which Service it belongs to.
type Names = BTreeMap<FrontendKey, String>;

fn names(services: &[Service]) -> Names {
    let mut names = Names::new();
    for service in services {
        let (meta, Some(spec)) = (&service.metadata, &service.spec) else { continue };
        let name = format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let ingress = service.status.iter().flat_map(|status| &status.load_balancer);
        let ingress = ingress.flat_map(|balancer| balancer.ingress.iter().flatten());
        let addresses = spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten());
        let addresses: Vec<IpAddr> = addresses
            .chain(ingress.filter_map(|ingress| ingress.ip.as_ref()))
            .filter_map(|text| text.parse().ok())
            .collect();
        for port in spec.ports.iter().flatten() {
            for ip in &addresses {
                names.insert(key((*ip).into(), port.port, port, frontend_kind::ADDRESS), name.clone());
            }
            if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
                for kind in [frontend_kind::NODE_PORT_V4, frontend_kind::NODE_PORT_V6] {
                    names.insert(key(Addr::UNSPECIFIED, node_port, port, kind), name.clone());
                }
            }
        }
    }
    names
}

fn key(addr: Addr, number: i32, port: &ServicePort, kind: u8) -> FrontendKey {
    let proto = match port.protocol.as_deref() {
        Some("UDP") => proto::UDP,
        Some("SCTP") => proto::SCTP,
        _ => proto::TCP,
    };
    FrontendKey { addr, port: Be16::new(u16::try_from(number).unwrap_or(0)), proto, kind }
}

struct Tables {
    frontends: BTreeMap<FrontendKey, Frontend>,
    slots: HashMap<u32, Slot>,
    /// Live flows by service id and backend.
    flows: HashMap<(u32, Addr, Be16), usize>,
}

impl Tables {
    fn read(show: &Show) -> anyhow::Result<Tables> {
        let maps = Maps::open(&show.pin_root)?;
        let mut flows = HashMap::new();
        let entries = maps.entries::<Tuple, Flow>(map::FLOWS).context("count flows")?;
        for (_, flow) in entries.iter().filter(|(_, flow)| flow.flags & flow_flag::REVERSE == 0) {
            *flows.entry((flow.service_id, flow.to.dst, flow.to.dport)).or_default() += 1;
        }
        Ok(Tables {
            // An address's marker has no port: it leads nowhere.
            frontends: maps
                .entries::<FrontendKey, Frontend>(map::FRONTENDS)?
                .into_iter()
                .filter(|(_, frontend)| frontend.service_id != 0)
                .collect(),
            slots: maps.entries::<u32, Slot>(map::SLOTS)?.into_iter().collect(),
            flows,
        })
    }

    fn sheet(&self, names: &Names, only: Option<&str>) -> Sheet {
        let mut sheet = Sheet::new(FRONTENDS);
        for (key, frontend) in &self.frontends {
            let name = names.get(key).map(String::as_str);
            if key.port == Be16::ZERO || only.is_some_and(|only| name != Some(only)) {
                continue;
            }
            let (address, kind) = match key.kind {
                frontend_kind::NODE_PORT_V4 => (format!("0.0.0.0:{}", key.port), "node-port"),
                frontend_kind::NODE_PORT_V6 => (format!("[::]:{}", key.port), "node-port"),
                _ => (socket(key.addr, key.port), "address"),
            };
            let flows: usize = self
                .flows
                .iter()
                .filter(|((id, ..), _)| *id == frontend.service_id)
                .map(|(_, count)| count)
                .sum();
            sheet.row(vec![
                name.map_or_else(|| json!(format!("#{}", frontend.service_id)), |name| json!(name)),
                json!(address),
                json!(protocol(key.proto)),
                json!(kind),
                json!(frontend.outside.count),
                json!(frontend.inside.count),
                json!(flows),
                json!(frontend.affinity_s),
                frontend_flags(frontend.flags),
            ]);
        }
        sheet.sorted()
    }

    fn backends(&self, names: &Names, name: &str) -> Sheet {
        let mut sheet = Sheet::new(&["address", "backend", "for", "share", "flows", "flags"]);
        let frontends = self.frontends.iter().filter(|(key, _)| names.get(key).is_some_and(|n| n == name));
        for (key, frontend) in frontends {
            // Elements in the window for outsiders and in that for insiders: a backend of more weight has
            // more of them.
            let mut seen: BTreeMap<(Addr, Be16), ([u32; 2], u16)> = BTreeMap::new();
            for (of, window) in [&frontend.outside, &frontend.inside].into_iter().enumerate() {
                for slot in self.window(window, frontend) {
                    let (elements, flags) = seen.entry((slot.addr, slot.port)).or_default();
                    elements[of] += 1;
                    *flags |= slot.flags;
                }
            }
            for ((addr, port), ([outside, inside], flags)) in seen {
                let (clients, elements, of) = match (outside, inside) {
                    (1.., 1..) => ("all", inside, frontend.inside.count),
                    (1.., 0) => ("outside", outside, frontend.outside.count),
                    (0, _) => ("inside", inside, frontend.inside.count),
                };
                let share = f64::from(elements) * 100.0 / f64::from(of.max(1));
                let flags: &[&str] = if flags & slot_flag::TERMINATING != 0 { &["terminating"] } else { &[] };
                let dialled = match key.kind {
                    frontend_kind::ADDRESS => socket(key.addr, key.port),
                    _ => format!("node:{}", key.port),
                };
                let flows = self.flows.get(&(frontend.service_id, addr, port)).copied().unwrap_or(0);
                sheet.row(vec![
                    json!(dialled),
                    json!(socket(addr, port)),
                    json!(clients),
                    json!(format!("{share:.1}%")),
                    json!(flows),
                    Value::from(flags),
                ]);
            }
        }
        sheet.sorted()
    }

    /// Slots that are still the frontend's: another plan may be under way.
    fn window<'a>(&'a self, window: &Window, frontend: &'a Frontend) -> impl Iterator<Item = &'a Slot> {
        let current =
            |slot: &&Slot| slot.service_id == frontend.service_id && slot.generation == frontend.generation;
        (window.first..window.end()).filter_map(|index| self.slots.get(&index)).filter(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_is_dialled_by_is_found_under_its_name() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "b"},
            "spec": {"clusterIPs": ["10.96.0.9", "fd00::9"], "externalIPs": ["192.0.2.1"],
                     "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "x"}]}},
        }))
        .unwrap();
        let names = names(&[service]);
        assert_eq!(names.len(), 6);
        let addr = IpAddr::from([192, 0, 2, 7]).into();
        let key = FrontendKey { addr, port: Be16::new(53), proto: proto::UDP, kind: frontend_kind::ADDRESS };
        assert_eq!(names[&key], "a/b");
    }
}
