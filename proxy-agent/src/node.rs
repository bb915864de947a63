//! Devices and routes: this node's side of the proxy. What hangs together is brought to what the tables say
//! in one place ([`Node`]), in an order in which no packet meets a moment without a program.

mod around;
pub(crate) mod conflist;
pub(crate) mod monitor;
pub(crate) mod network;
pub(crate) mod settings;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use aya::maps::{MapData, RingBuf};
use cni_plugin::{RestoreError, restore};
use ipnetwork::IpNetwork;
use proxy_abi::{Facts, PodCidr, PodCidrKey, Seat, Uplink as WayOut, map, prog};
use proxy_state::{NodeTables, router_address};
use skerry_kernel::{Map, Update, cgroup2_mount, is_cgroup2, netns_cookie, pinned_map_info};

use self::{
    conflist::ConflistError,
    network::{Network, NetworkError, OVERLAY, SideUplink, Uplink},
    settings::{Settings, SettingsError},
};
use crate::{
    config::Config,
    programs::{
        attach::{AttachError, Attachments, Changes, Hooks},
        facts::{Found, facts},
        inherited::Inherited,
        load::{LoadError, load},
        old_flows,
        pins::Pins,
    },
};
use skerry_vocabulary::chain;

/// This node's side of the proxy: device, routes, settings, programs and their attachments.
pub(crate) struct Node {
    config: Config,
    network: Network,
    settings: Settings,
    attachments: Attachments,
    facts: Map<u32, Facts>,
    uplinks: Map<u32, WayOut>,
    uplink: Uplink,
    others: Vec<SideUplink>,
    host_netns_cookie: u64,
    flow_queue: u32,
    warned_of: Vec<PathBuf>,
    ranges_left_out: Vec<IpNetwork>,
    /// Where the API server is.
    servers: Vec<IpAddr>,
    /// Programs are attached that read other maps, and those of this agent are not filled yet.
    is_held_back: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Conflist(#[from] ConflistError),
    #[error("write this node's facts to map CONFIG")]
    Facts(#[source] skerry_kernel::Error),
    #[error("read the network namespace's cookie (needs Linux 5.14)")]
    Cookie(#[source] skerry_kernel::Error),
    #[error("write the devices that lead out to map UPLINKS")]
    Uplinks(#[source] skerry_kernel::Error),
    #[error("read what the maps hold")]
    Read(#[source] skerry_kernel::Error),
    #[error("look at the flow table")]
    Flows(#[source] skerry_kernel::Error),
    #[error("restore the entries of this node's pods")]
    Pods(#[from] RestoreError),
    #[error("find the cgroup v2 hierarchy")]
    FindCgroup(#[source] skerry_kernel::Error),
    #[error(
        "no cgroup v2 hierarchy is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or set --cgroup-root"
    )]
    NoCgroup,
    #[error("{0} is no folder of a cgroup v2 hierarchy: set --cgroup-root to one")]
    NotCgroup(PathBuf),
}

fn names(uplink: &Uplink, others: &[SideUplink]) -> Vec<String> {
    [&uplink.name].into_iter().chain(others.iter().map(|other| &other.name)).cloned().collect()
}

/// A node that has its programs.
pub(crate) struct Start {
    pub node: Node,
    /// The ring of drop records.
    pub drops: RingBuf<MapData>,
    pub inherited: Inherited,
}

impl Node {
    /// Makes the device, takes up or makes the maps, loads the programs and puts them in the place of those
    /// that run. No packet meets a moment without a program.
    pub async fn start(config: Config) -> Result<Start, NodeError> {
        let cgroup = cgroup_root(&config)?;
        let mut settings = Settings::open(&config.run_dir)?;
        let network = Network::open()?;
        let uplink = network.find_uplink(&config).await?;
        let overlay_index = network.ensure_overlay(config.vxlan_port, uplink.pod_mtu()).await?;
        let pins = Pins::new(&config.pin_root);
        prepare_pins(&pins, &mut settings)?;
        let others = network
            .other_uplinks(uplink.index, config.other_uplinks.as_deref(), &known_pod_ranges(&pins))
            .await?;
        let uplinks = names(&uplink, &others);
        settings.prepare_forwarding(&uplinks, OVERLAY, false)?;
        let programs = load(&pins, &config.map_sizes, config.uplink_xdp.map(|_| prog::UPLINK_XDP))?;
        // Attaching is mostly waiting for the kernel.
        let inherited = std::thread::spawn({
            let (pins, are_fresh) = (pins.clone(), programs.are_fresh);
            move || Inherited::read(&pins, are_fresh)
        });
        let drops = programs.events;
        let start = |node| {
            let read = inherited.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(Start { node, drops, inherited: read.map_err(NodeError::Read)? })
        };
        let facts = Map::open(&pins.map(map::CONFIG)).map_err(NodeError::Facts)?;
        let hooks = Hooks { uplinks, overlay: OVERLAY.to_owned(), cgroup, xdp: config.uplink_xdp };
        let flows = pinned_map_info(&pins.map(map::FLOWS)).map_err(NodeError::Flows)?;
        let attachments = Attachments::new(pins.clone(), programs.by_name, hooks)?;
        let host_netns_cookie = netns_cookie().map_err(NodeError::Cookie)?;
        let mut node = Node {
            config,
            network,
            settings,
            attachments,
            facts,
            uplinks: Map::open(&pins.map(map::UPLINKS)).map_err(NodeError::Uplinks)?,
            uplink,
            others,
            host_netns_cookie,
            flow_queue: Seat::in_use(flows.max_entries),
            warned_of: Vec::new(),
            ranges_left_out: Vec::new(),
            servers: Vec::new(),
            is_held_back: programs.must_fill,
        };
        if node.is_held_back {
            tracing::info!("the programs that are attached go on until the new maps are filled");
            return start(node);
        }
        node.write_facts(overlay_index, None, None)?;
        if let Err(error) = node.restore_pods() {
            // The others are served; the next look tells it again, and that the node is not whole.
            tracing::error!(error = chain(&error), "entries of pods are not restored");
        }
        let changes = node.put_in_place()?;
        node.attachments.self_test()?;
        tracing::info!(
            uplink = node.uplink.name,
            mtu = node.uplink.pod_mtu(),
            ?changes,
            "programs are in place"
        );
        start(node)
    }

    /// Brings device, addresses, routes, facts, attachments and the network configuration to what the tables
    /// say; does nothing where nothing is to do. `None`: the cluster's nodes are not known yet, what concerns
    /// them stays as it is.
    pub async fn settle(&mut self, tables: Option<&NodeTables>) -> Result<Changes, NodeError> {
        if self.is_held_back {
            return Ok(Changes::default());
        }
        let pins = Pins::new(&self.config.pin_root);
        prepare_pins(&pins, &mut self.settings)?;
        let repinned = self.attachments.restore_pins()?;
        self.uplink = self.network.find_uplink(&self.config).await?;
        let index = self.network.ensure_overlay(self.config.vxlan_port, self.uplink.pod_mtu()).await?;
        let pods = match tables {
            Some(tables) => tables.own.iter().chain(&tables.remote).copied().collect(),
            None => known_pod_ranges(&pins),
        };
        let named = self.config.other_uplinks.as_deref();
        self.others = self.network.other_uplinks(self.uplink.index, named, &pods).await?;
        let uplinks = names(&self.uplink, &self.others);
        let has_v6_pods = tables.is_some_and(|tables| tables.own.iter().any(|cidr| cidr.is_ipv6()));
        self.settings.prepare_forwarding(&uplinks, OVERLAY, has_v6_pods)?;
        self.attachments.set_uplinks(uplinks);
        let routers: Option<BTreeSet<IpAddr>> =
            tables.map(|tables| tables.own.iter().map(router_address).collect());
        let service_ranges = tables.map(|tables| &*tables.service_ranges);
        self.warn_of_ranges(service_ranges.unwrap_or_default());
        self.write_facts(index, routers.as_ref(), service_ranges)?;
        if let (Some(tables), Some(routers)) = (tables, &routers) {
            self.network.set_overlay_addresses(index, routers).await?;
            let in_the_way = self.network.set_overlay_routes(index, &tables.remote, routers).await?;
            if !in_the_way.is_empty() {
                // The next look at the surroundings finds them, and these ranges are not believed any more.
                tracing::warn!(?in_the_way, "routes that are not ours appeared, and stay");
            }
        }
        self.restore_pods()?;
        let mut changes = self.put_in_place()?;
        changes.repinned += repinned;
        if let Some(tables) = tables.filter(|tables| !tables.own.is_empty()) {
            self.announce(tables)?;
        }
        Ok(changes)
    }

    /// Pods' entries that the tables have lost.
    fn restore_pods(&self) -> Result<(), NodeError> {
        let restored = restore(&self.config.pin_root, &self.config.cni_state_dir)?;
        if restored.attachments > 0 {
            tracing::warn!(pods = restored.attachments, "entries of pods were gone: written again");
        }
        if !restored.unreadable.is_empty() {
            tracing::debug!(records = ?restored.unreadable, "no records of the CNI plugin");
        }
        Ok(())
    }

    /// Where the API server was found.
    pub fn set_servers(&mut self, servers: Vec<IpAddr>) {
        self.servers = servers;
    }

    /// Attaches what is not attached. Flows that an older version's programs keep elsewhere come along, those
    /// too that they recorded until they were replaced.
    fn put_in_place(&mut self) -> Result<Changes, NodeError> {
        self.write_ways_out()?;
        let pins = Pins::new(&self.config.pin_root);
        old_flows::adopt(&pins).map_err(NodeError::Flows)?;
        let changes = self.attachments.ensure()?;
        old_flows::adopt(&pins).map_err(NodeError::Flows)?;
        old_flows::remove(&pins).map_err(LoadError::from)?;
        Ok(changes)
    }

    /// Number of the device towards the other nodes.
    pub fn uplink_index(&self) -> u32 {
        self.uplink.index
    }

    /// The maps say what they should. Whether the programs waited for that: they are attached by the next
    /// [`Node::settle`].
    pub fn maps_are_filled(&mut self) -> bool {
        std::mem::take(&mut self.is_held_back)
    }

    pub fn self_test(&self) -> Result<(), NodeError> {
        if self.is_held_back {
            return Ok(());
        }
        Ok(self.attachments.self_test()?)
    }

    /// The last step: from here on the runtime may start pods.
    fn announce(&mut self, tables: &NodeTables) -> Result<(), NodeError> {
        let Config { cni_conf_dir, cni_bin, cni_state_dir, pin_root, .. } = &self.config;
        if let Some(binary) = cni_bin {
            conflist::install(binary)?;
        }
        if conflist::write(cni_conf_dir, self.uplink.pod_mtu(), &tables.own, pin_root, cni_state_dir)? {
            tracing::info!(dir = %cni_conf_dir.display(), ranges = ?tables.own, "network configuration written");
        }
        for foreign in conflist::foreign_before_ours(cni_conf_dir) {
            if !self.warned_of.contains(&foreign) {
                let path = foreign.display();
                tracing::warn!(%path, "another network configuration comes before ours: remove it, or pods get its network");
                self.warned_of.push(foreign);
            }
        }
        Ok(())
    }

    /// Says once of which ranges the unused addresses are not refused, for want of room.
    fn warn_of_ranges(&mut self, ranges: &[IpNetwork]) {
        let left_out = ranges.get(Facts::SERVICE_RANGES..).unwrap_or_default();
        if self.ranges_left_out != left_out {
            self.ranges_left_out = left_out.to_vec();
            if !left_out.is_empty() {
                tracing::warn!(
                    ?left_out,
                    "more than {} separate ServiceCIDR ranges: in these, addresses of no Service are not refused but leave the node",
                    Facts::SERVICE_RANGES
                );
            }
        }
    }

    fn write_facts(
        &self,
        overlay_index: u32,
        routers: Option<&BTreeSet<IpAddr>>,
        service_ranges: Option<&[IpNetwork]>,
    ) -> Result<(), NodeError> {
        let before = self.facts.lookup(&0).map_err(NodeError::Facts)?.unwrap_or_default();
        let routers: Option<Vec<IpAddr>> = routers.map(|routers| routers.iter().copied().collect());
        let found = Found {
            uplink: Some(&self.uplink),
            overlay_index,
            host_netns_cookie: self.host_netns_cookie,
            flow_queue: self.flow_queue,
            routers: routers.as_deref(),
            service_ranges,
        };
        let now = facts(&self.config, &found, &before);
        match now == before {
            true => Ok(()),
            false => self.facts.update(&0, &now, Update::Any).map_err(NodeError::Facts),
        }
    }
}

fn cgroup_root(config: &Config) -> Result<PathBuf, NodeError> {
    let root = match &config.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup2_mount().map_err(NodeError::FindCgroup)?.ok_or(NodeError::NoCgroup)?,
    };
    match is_cgroup2(&root).map_err(NodeError::FindCgroup)? {
        true => Ok(root),
        false => Err(NodeError::NotCgroup(root)),
    }
}

fn prepare_pins(pins: &Pins, settings: &mut Settings) -> Result<(), NodeError> {
    if let Some(mounted) = pins.prepare().map_err(LoadError::from)? {
        settings.record_mount(&mounted)?;
    }
    Ok(())
}

/// What the maps say of pods' ranges before Nodes are known: from an agent before this one.
fn known_pod_ranges(pins: &Pins) -> Vec<IpNetwork> {
    let known = Map::<PodCidrKey, PodCidr>::open(&pins.map(map::POD_CIDRS)).and_then(|map| map.entries());
    let range = |key: &PodCidrKey| {
        let bits = if key.addr.is_v4() { key.prefix_len.checked_sub(96)? } else { key.prefix_len };
        IpNetwork::new(key.addr.to_ip(), bits.try_into().ok()?).ok()
    };
    known.unwrap_or_default().iter().filter_map(|(key, _)| range(key)).collect()
}
