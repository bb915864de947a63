use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, Program, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::TcAttachOptions,
    },
};
use proxy_abi::{
    Addr, Affinity, AffinityKey, Counter, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, PodCidr, Reason, Slot, SourceOf, SourceRangeKey, Tuple, Uplink, map,
};
use skerry_kernel::{Direction, Filter, attach_filters};
use skerry_lab::{Netns, NetnsError};

use crate::summed;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKERRY_BPF_OBJECT"));

/// An answer may be longer than what it answers (an ICMP error to an empty datagram).
const ANSWER_ROOM: usize = 128;
/// Entries of the large tables in tests.
pub const TABLE: u32 = 8_192;

/// Why the object could not be loaded or one of its maps not be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("load the object")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("the object has no {what} {name}")]
    Missing { what: &'static str, name: String },
    #[error("load program {name}")]
    Verify { name: String, source: Box<aya::programs::ProgramError> },
    #[error("use map {name}")]
    Map { name: &'static str, source: Box<aya::maps::MapError> },
    #[error("enter the device's namespace")]
    Netns(#[source] NetnsError),
    #[error("open cgroup {path}")]
    Cgroup { path: PathBuf, source: std::io::Error },
    #[error("run program {name} over a packet")]
    TestRun { name: String, source: Box<aya::programs::ProgramError> },
    #[error("run program {name} over a packet with a sum of its device's")]
    SummedRun { name: String, source: std::io::Error },
    #[error("attach program {name} to {to} by a filter")]
    Filter { name: String, to: String, source: skerry_kernel::Error },
    #[error("attach program {name} to {to}")]
    Attach { name: String, to: String, source: Box<aya::programs::ProgramError> },
}

/// A key or value of `proxy_abi`, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: bytemuck has checked T: no padding, every bit pattern valid.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}

/// One loaded copy of all programs, with unpinned maps of its own: a node's data plane.
pub struct Object {
    bpf: Ebpf,
}

impl Object {
    /// Creates the maps; programs are verified on first use.
    ///
    /// # Errors
    /// The kernel refused a map, or the caller may not use bpf().
    pub fn load() -> Result<Object, ObjectError> {
        let mut loader = EbpfLoader::new();
        // Small tables: many worlds are up at a time.
        for table in [map::FLOWS, map::SOCKETS, map::SLOTS] {
            loader.map_max_entries(table, TABLE);
        }
        let bpf = loader.load(OBJECT).map_err(|source| ObjectError::Load(Box::new(source)))?;
        Ok(Object { bpf })
    }

    /// A tc program, verified.
    ///
    /// # Errors
    /// The object lacks it, or the verifier refused it.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier, ObjectError> {
        let program: &mut SchedClassifier =
            self.program(name)?.try_into().map_err(|source| verify_error(name, source))?;
        if program.fd().is_err() {
            program.load().map_err(|source| verify_error(name, source))?;
        }
        Ok(program)
    }

    /// A cgroup socket address program, verified.
    ///
    /// # Errors
    /// The object lacks it, or the verifier refused it.
    pub fn sock_addr(&mut self, name: &str) -> Result<&mut CgroupSockAddr, ObjectError> {
        let program: &mut CgroupSockAddr =
            self.program(name)?.try_into().map_err(|source| verify_error(name, source))?;
        if program.fd().is_err() {
            program.load().map_err(|source| verify_error(name, source))?;
        }
        Ok(program)
    }

    /// The XDP program of a balancer, verified.
    ///
    /// # Errors
    /// The object lacks it, or the verifier refused it.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp, ObjectError> {
        let program: &mut Xdp =
            self.program(name)?.try_into().map_err(|source| verify_error(name, source))?;
        if program.fd().is_err() {
            program.load().map_err(|source| verify_error(name, source))?;
        }
        Ok(program)
    }

    fn program(&mut self, name: &str) -> Result<&mut Program, ObjectError> {
        self.bpf
            .program_mut(name)
            .ok_or_else(|| ObjectError::Missing { what: "program", name: name.to_owned() })
    }

    /// Runs a tc program once over a packet on a device of the current namespace; returns its answer
    /// (`TC_ACT_*`) and the packet as it left it. A redirect is not carried out.
    ///
    /// # Errors
    /// As for [`Object::classifier`], or the kernel refuses the run.
    pub fn test_run(
        &mut self,
        name: &str,
        ifindex: u32,
        packet: &[u8],
    ) -> Result<(i32, Vec<u8>), ObjectError> {
        let context = skerry_kernel::skb_context(ifindex);
        let mut out = vec![0; packet.len() + ANSWER_ROOM];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let done = self
            .classifier(name)?
            .test_run(options)
            .map_err(|source| ObjectError::TestRun { name: name.to_owned(), source: Box::new(source) })?;
        out.truncate(done.data_size_out as usize);
        Ok((done.return_value as i32, out))
    }

    /// As [`Object::test_run`], of an XDP program; the answer alone.
    ///
    /// # Errors
    /// As for [`Object::test_run`].
    pub fn test_run_xdp(&mut self, name: &str, ifindex: u32, packet: &[u8]) -> Result<i32, ObjectError> {
        let context = skerry_kernel::xdp_context(ifindex, packet.len());
        let mut out = vec![0; packet.len() + ANSWER_ROOM];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..Default::default()
        };
        let done = self.xdp(name)?.test_run(options);
        done.map(|done| done.return_value as i32)
            .map_err(|source| ObjectError::TestRun { name: name.to_owned(), source: Box::new(source) })
    }

    /// As [`Object::test_run`], over a packet that its device has summed up (CHECKSUM_COMPLETE); the answer
    /// alone.
    ///
    /// # Errors
    /// As for [`Object::test_run`]; EBADMSG where the packet's sum was not kept up with what the program did
    /// to it.
    pub fn test_run_summed(&mut self, name: &str, ifindex: u32, packet: &[u8]) -> Result<i32, ObjectError> {
        let program = self.classifier(name)?;
        let fd = program.fd().map_err(|source| verify_error(name, source))?;
        summed::run(fd.as_fd(), &skerry_kernel::skb_context(ifindex), packet)
            .map_err(|source| ObjectError::SummedRun { name: name.to_owned(), source })
    }

    /// Attaches a tc program to a device in a namespace, on the side that its hook is on, for as long as this
    /// value lives; by a filter, and for as long as the device is there, where the kernel has no TCX (6.6).
    ///
    /// # Errors
    /// As for [`Object::classifier`], or the kernel refuses.
    pub fn attach(&mut self, netns: &Netns, name: &str, device: &str) -> Result<(), ObjectError> {
        let filtered = |source| ObjectError::Filter { name: name.to_owned(), to: device.to_owned(), source };
        if !skerry_kernel::has_tcx().map_err(filtered)? {
            return self.attach_filter(netns, name, device);
        }
        let side = if name.starts_with("from_") { TcAttachType::Ingress } else { TcAttachType::Egress };
        let program = self.classifier(name)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = netns.run(|| program.attach_with_options(device, side, options).map(|_| ()));
        attached.map_err(ObjectError::Netns)?.map_err(|source| ObjectError::Attach {
            name: name.to_owned(),
            to: device.to_owned(),
            source: Box::new(source),
        })
    }

    fn attach_filter(&mut self, netns: &Netns, name: &str, device: &str) -> Result<(), ObjectError> {
        let direction = if name.starts_with("from_") { Direction::Ingress } else { Direction::Egress };
        let program = self.classifier(name)?.fd().map_err(|source| verify_error(name, source))?;
        let filter = Filter { direction, program: program.as_fd(), name };
        let attached = netns
            .run(|| attach_filters(skerry_kernel::ifindex(device)?, &[filter]))
            .map_err(ObjectError::Netns)?;
        attached.map_err(|source| ObjectError::Filter {
            name: name.to_owned(),
            to: device.to_owned(),
            source,
        })
    }

    /// Attaches an XDP program to a device in a namespace, for as long as this value lives.
    ///
    /// # Errors
    /// As for [`Object::xdp`], or the kernel refuses.
    pub fn attach_xdp(
        &mut self,
        netns: &Netns,
        name: &str,
        device: &str,
        mode: XdpMode,
    ) -> Result<(), ObjectError> {
        let program = self.xdp(name)?;
        let attached = netns.run(|| program.attach(device, mode).map(|_| ()));
        attached.map_err(ObjectError::Netns)?.map_err(|source| ObjectError::Attach {
            name: name.to_owned(),
            to: device.to_owned(),
            source: Box::new(source),
        })
    }

    /// Attaches all socket programs to a cgroup, for as long as this value lives.
    ///
    /// # Errors
    /// As for [`Object::sock_addr`], or the cgroup refuses.
    pub fn attach_to_cgroup(&mut self, cgroup: &Path) -> Result<(), ObjectError> {
        let folder = std::fs::File::open(cgroup)
            .map_err(|source| ObjectError::Cgroup { path: cgroup.to_owned(), source })?;
        for name in proxy_abi::PROGRAMS.iter().filter(|name| name.starts_with("sock_")) {
            self.sock_addr(name)?.attach(&folder, CgroupAttachMode::Single).map_err(|source| {
                ObjectError::Attach {
                    name: (*name).to_owned(),
                    to: cgroup.display().to_string(),
                    source: Box::new(source),
                }
            })?;
        }
        Ok(())
    }

    pub fn set_facts(&mut self, facts: Facts) -> Result<(), ObjectError> {
        let mut map: Array<&mut MapData, Plain<Facts>> = self.map(map::CONFIG)?;
        map.set(0, Plain(facts), 0).map_err(|source| map_error(map::CONFIG, source))
    }

    pub fn set_slot(&mut self, index: u32, slot: Slot) -> Result<(), ObjectError> {
        let mut map: Array<&mut MapData, Plain<Slot>> = self.map(map::SLOTS)?;
        map.set(index, Plain(slot), 0).map_err(|source| map_error(map::SLOTS, source))
    }

    pub fn set_frontend(&mut self, key: FrontendKey, frontend: Frontend) -> Result<(), ObjectError> {
        self.insert(map::FRONTENDS, key, frontend)
    }

    pub fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), ObjectError> {
        let mut map: HashMap<&mut MapData, Plain<FrontendKey>, Plain<Frontend>> = self.map(map::FRONTENDS)?;
        map.remove(&Plain(key)).map_err(|source| map_error(map::FRONTENDS, source))
    }

    pub fn set_endpoint(&mut self, addr: Addr, endpoint: Endpoint) -> Result<(), ObjectError> {
        self.insert(map::ENDPOINTS, addr, endpoint)
    }

    /// Takes an endpoint away; what it was.
    pub fn forget_endpoint(&mut self, addr: Addr) -> Result<Endpoint, ObjectError> {
        let mut map: HashMap<&mut MapData, Plain<Addr>, Plain<Endpoint>> = self.map(map::ENDPOINTS)?;
        let was = map.get(&Plain(addr), 0).map_err(|source| map_error(map::ENDPOINTS, source))?;
        map.remove(&Plain(addr)).map_err(|source| map_error(map::ENDPOINTS, source))?;
        Ok(was.0)
    }

    pub fn set_link(&mut self, ifindex: u32, link: Link) -> Result<(), ObjectError> {
        self.insert(map::LINKS, ifindex, link)
    }

    pub fn set_tunnel_peer(&mut self, node: Addr) -> Result<(), ObjectError> {
        self.insert(map::TUNNEL_PEERS, node, 0_u32)
    }

    pub fn set_pod_cidr(&mut self, prefix_len: u32, addr: Addr, cidr: PodCidr) -> Result<(), ObjectError> {
        let mut map: LpmTrie<&mut MapData, Plain<Addr>, Plain<PodCidr>> = self.map(map::POD_CIDRS)?;
        map.insert(&Key::new(prefix_len, Plain(addr)), Plain(cidr), 0)
            .map_err(|source| map_error(map::POD_CIDRS, source))
    }

    pub fn set_source_range(&mut self, range: SourceRangeKey) -> Result<(), ObjectError> {
        let mut map: LpmTrie<&mut MapData, Plain<SourceOf>, Plain<u32>> = self.map(map::SOURCE_RANGES)?;
        map.insert(&Key::new(range.prefix_len, Plain(range.of)), Plain(0), 0)
            .map_err(|source| map_error(map::SOURCE_RANGES, source))
    }

    pub fn set_uplink(&mut self, ifindex: u32, uplink: Uplink) -> Result<(), ObjectError> {
        self.insert(map::UPLINKS, ifindex, uplink)
    }

    /// The socket hooks leave a network namespace alone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave_out(&mut self, netns_cookie: u64) -> Result<(), ObjectError> {
        self.insert(map::LEFT_OUT, netns_cookie, 0_u32)
    }

    pub fn set_member(&mut self, member: Member, windows: u32) -> Result<(), ObjectError> {
        self.insert(map::MEMBERS, member, windows)
    }

    pub fn set_flow(&mut self, key: Tuple, flow: Flow) -> Result<(), ObjectError> {
        self.insert(map::FLOWS, key, flow)
    }

    /// All entries of `FLOWS`.
    pub fn flows(&mut self) -> Result<Vec<(Tuple, Flow)>, ObjectError> {
        let flows: HashMap<&mut MapData, Plain<Tuple>, Plain<Flow>> = self.map(map::FLOWS)?;
        flows
            .iter()
            .map(|entry| {
                entry.map(|(key, flow)| (key.0, flow.0)).map_err(|source| map_error(map::FLOWS, source))
            })
            .collect()
    }

    /// Empties every table that has keys.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&mut self) -> Result<(), ObjectError> {
        self.empty::<FrontendKey, Frontend>(map::FRONTENDS)?;
        self.empty::<Member, u32>(map::MEMBERS)?;
        self.empty::<AffinityKey, Affinity>(map::AFFINITY)?;
        self.empty::<Addr, Endpoint>(map::ENDPOINTS)?;
        self.empty::<u32, Link>(map::LINKS)?;
        self.empty::<u32, Uplink>(map::UPLINKS)?;
        self.empty::<Addr, u32>(map::TUNNEL_PEERS)?;
        self.empty::<Tuple, Flow>(map::FLOWS)?;
        self.empty::<FragmentKey, FragmentPorts>(map::FRAGMENTS)?;
        let mut cidrs: LpmTrie<&mut MapData, Plain<Addr>, Plain<PodCidr>> = self.map(map::POD_CIDRS)?;
        let keys: Vec<_> = cidrs.keys().flatten().collect();
        for key in keys {
            cidrs.remove(&key).map_err(|source| map_error(map::POD_CIDRS, source))?;
        }
        let mut ranges: LpmTrie<&mut MapData, Plain<SourceOf>, Plain<u32>> = self.map(map::SOURCE_RANGES)?;
        let keys: Vec<_> = ranges.keys().flatten().collect();
        for key in keys {
            ranges.remove(&key).map_err(|source| map_error(map::SOURCE_RANGES, source))?;
        }
        Ok(())
    }

    fn empty<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, name: &'static str) -> Result<(), ObjectError> {
        let mut map: HashMap<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        let keys: Vec<_> = map.keys().flatten().collect();
        for key in keys {
            map.remove(&key).map_err(|source| map_error(name, source))?;
        }
        Ok(())
    }

    /// Packets counted under a reason, all CPUs together.
    pub fn counted(&mut self, reason: Reason) -> Result<u64, ObjectError> {
        let map: PerCpuArray<&mut MapData, Plain<Counter>> = self.map(map::COUNTERS)?;
        let values = map.get(&(reason as u32), 0).map_err(|source| map_error(map::COUNTERS, source))?;
        Ok(values.iter().map(|counter| counter.0.packets).sum())
    }

    fn insert<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &'static str,
        key: K,
        value: V,
    ) -> Result<(), ObjectError> {
        let mut map: HashMap<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        map.insert(Plain(key), Plain(value), 0).map_err(|source| map_error(name, source))
    }

    /// Sizes of a map's keys and values in bytes.
    ///
    /// # Errors
    /// The object has no such map, or the kernel says nothing of it.
    pub fn layout(&self, name: &'static str) -> Result<(u32, u32), ObjectError> {
        use aya::maps::Map;
        let map =
            self.bpf.map(name).ok_or_else(|| ObjectError::Missing { what: "map", name: name.to_owned() })?;
        let data = match map {
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => data,
            Map::PerCpuArray(data) | Map::RingBuf(data) => data,
            _ => return Err(ObjectError::Missing { what: "map of a kind we use", name: name.to_owned() }),
        };
        let info = data.info().map_err(|source| map_error(name, source))?;
        Ok((info.key_size(), info.value_size()))
    }

    fn map<'a, M>(&'a mut self, name: &'static str) -> Result<M, ObjectError>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self
            .bpf
            .map_mut(name)
            .ok_or_else(|| ObjectError::Missing { what: "map", name: name.to_owned() })?;
        M::try_from(map).map_err(|source| map_error(name, source))
    }
}

fn map_error(name: &'static str, source: aya::maps::MapError) -> ObjectError {
    ObjectError::Map { name, source: Box::new(source) }
}

fn verify_error(name: &str, source: aya::programs::ProgramError) -> ObjectError {
    ObjectError::Verify { name: name.to_owned(), source: Box::new(source) }
}
