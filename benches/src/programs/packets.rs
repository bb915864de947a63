//! The time that programs take over rows of the datapath's case table, in the kernel by `BPF_PROG_TEST_RUN`.
//!
//! One packet a run, since a run leaves its packet changed; in turn with an empty program, whose time is
//! taken off. A new flow finds the tables as the row has them each time, a known one finds itself.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use proxy_abi::{prog, proto};
use skerry_kernel::{Program, instruction, program_type, skb_context, xdp_context};
use skerry_lab::Netns;
use skerry_packet_cases::Object;

use super::cases::{self, Hook, POD_A_IFINDEX, State, packet::tcp};
use crate::{Options, probe, stats::quartiles};

const RUNS: usize = 400;
const QUICK_RUNS: usize = 40;
/// Runs whose time is not counted: caches, and the branch predictors.
const WARM: usize = 20;

/// A passage of a row.
struct Sample {
    row: &'static str,
    passage: usize,
    flow: Flow,
    name: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
enum Flow {
    /// The tables are filled anew before each run.
    New,
    /// Every run meets what the one before has left.
    Known,
}

const fn sample(row: &'static str, passage: usize, flow: Flow, name: &'static str) -> Sample {
    Sample { row, passage, flow, name }
}

const SERVICE: &str = "a datagram to a service goes to its backend, and its answer comes from the service";
const NODE_PORT: &str =
    "a NodePort's pod on another node sees the router address, its answer comes through the tunnel";

const SAMPLES: &[Sample] = &[
    sample("a pod of the same node is reached past the stack", 0, Flow::Known, "to a pod of this node"),
    sample("a remote pod is reached through the tunnel", 0, Flow::Known, "to a remote pod"),
    sample("a remote pod is reached through the tunnel, v6", 0, Flow::Known, "to a remote pod, v6"),
    sample(SERVICE, 0, Flow::New, "datagram to a service, new"),
    sample(SERVICE, 0, Flow::Known, "datagram to a service, known"),
    sample("the outside sees the node's address", 0, Flow::New, "to the outside, new"),
    sample("the outside sees the node's address", 2, Flow::Known, "to the outside, known"),
    sample("the node's probes reach a pod unchanged", 0, Flow::Known, "the node's own to a pod"),
    sample("what is for no service is the stack's", 0, Flow::Known, "for no service"),
    sample(NODE_PORT, 0, Flow::New, "to a NodePort with a remote backend, new"),
    sample(NODE_PORT, 0, Flow::Known, "to a NodePort with a remote backend, known"),
    sample(
        "a NodePort's backend in another node's own network",
        0,
        Flow::New,
        "to a NodePort, backend a node, new",
    ),
    sample("what went through the stack is masqueraded on its way out", 0, Flow::Known, "masqueraded"),
    sample("the stack's packets get their node", 0, Flow::Known, "the node's own to a remote pod"),
];

/// Nanoseconds over those of an empty program, run by run, by program and packet.
///
/// # Errors
/// When the case table lacks a row, or the kernel refuses a run.
pub fn times(options: &Options) -> Result<Vec<(String, Vec<f64>)>> {
    let netns = namespace()?;
    netns.run(|| {
        probe::pin(0)?;
        let mut bench = Bench::new(if options.quick { QUICK_RUNS } else { RUNS })?;
        let mut times = SAMPLES.iter().map(|sample| bench.sample(sample)).collect::<Result<Vec<_>>>()?;
        for (flow, name) in [(Flow::New, "SYN to a virtual address, new"), (Flow::Known, "SYN again")] {
            times.push((format!("{}: {name}", prog::LB_XDP), bench.balancer(flow)?));
        }
        Ok(times)
    })?
}

/// A way out by `up0`, with neighbours that are known.
fn namespace() -> Result<Netns> {
    let netns = Netns::unique("p16")?;
    netns.ip("link add up0 type veth peer name up1")?;
    for line in [
        "link set up1 up",
        "link set up0 up",
        "addr add 192.168.50.1/24 dev up0",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "route add default via 192.168.50.254",
        "-6 route add default via 2001:db8::fe dev up0",
        "neigh add 192.168.50.254 lladdr 02:00:00:00:00:fe dev up0 nud permanent",
        "neigh add 192.168.50.7 lladdr 02:00:00:00:00:07 dev up0 nud permanent",
    ] {
        netns.ip(line)?;
    }
    netns.sh("sysctl -qw net.ipv4.ip_forward=1")?;
    Ok(netns)
}

struct Bench {
    object: Object,
    uplink: u32,
    runs: usize,
    nothing: Program,
    nothing_xdp: Program,
}

impl Bench {
    fn new(runs: usize) -> Result<Bench> {
        // TC_ACT_UNSPEC, and XDP_PASS.
        let returns = |value| [instruction(0xb7, 0, 0, 0, value), instruction(0x95, 0, 0, 0, 0)];
        Ok(Bench {
            object: Object::load()?,
            uplink: skerry_kernel::ifindex("up0")?,
            runs,
            nothing: Program::load("nothing", program_type::SCHED_CLS, 0, &returns(-1))?,
            nothing_xdp: Program::load("nothing", program_type::XDP, 0, &returns(2))?,
        })
    }

    fn sample(&mut self, sample: &Sample) -> Result<(String, Vec<f64>)> {
        let case = cases::all().into_iter().find(|case| case.name == sample.row);
        let case = case.with_context(|| format!("the case table has no row {:?} any more", sample.row))?;
        let passage = case
            .passages
            .get(sample.passage)
            .with_context(|| format!("{:?} has fewer passages", sample.row))?;
        let name = program(passage.hook)?;
        let run = copy(self.object.classifier(name)?.fd()?, name)?;
        let before =
            case.passages.iter().take(sample.passage).filter(|passage| program(passage.hook).is_ok());
        let before: Vec<(&str, &[u8])> = before
            .map(|passage| Ok((program(passage.hook)?, passage.input.as_slice())))
            .collect::<Result<_>>()?;
        let prepare = |object: &mut Object| -> Result<()> {
            fill(object, &case.state, self.uplink)?;
            for (name, packet) in &before {
                object.test_run(name, POD_A_IFINDEX, packet)?;
            }
            Ok(())
        };
        let times = measure(
            &mut self.object,
            (&run, &self.nothing),
            (&passage.input, &skb_context(POD_A_IFINDEX)),
            sample.flow,
            self.runs,
            prepare,
        )?;
        Ok((format!("{name}: {}", sample.name), times))
    }

    fn balancer(&mut self, flow: Flow) -> Result<Vec<f64>> {
        let run = copy(self.object.xdp(prog::LB_XDP)?.fd()?, prog::LB_XDP)?;
        let (vip, uplink) = ("203.0.113.10:80", self.uplink);
        let state = State::standard().service(1, proto::TCP, vip, &["192.168.50.7:80"]);
        let packet = tcp("198.51.100.9:4000", vip, "S").bytes();
        let context = xdp_context(uplink, packet.len());
        let prepare = |object: &mut Object| fill(object, &state, uplink);
        measure(&mut self.object, (&run, &self.nothing_xdp), (&packet, &context), flow, self.runs, prepare)
    }
}

fn measure(
    object: &mut Object,
    (program, nothing): (&Program, &Program),
    (packet, context): (&[u8], &[u8]),
    flow: Flow,
    runs: usize,
    prepare: impl Fn(&mut Object) -> Result<()>,
) -> Result<Vec<f64>> {
    let (mut times, mut empty) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for run in 0..WARM + runs {
        if run == 0 || flow == Flow::New {
            prepare(object)?;
        }
        let (ours, theirs) =
            (program.test_run(packet, context, 1, 0)?.ns, nothing.test_run(packet, context, 1, 0)?.ns);
        if run >= WARM {
            times.push(f64::from(ours));
            empty.push(f64::from(theirs));
        }
    }
    let empty = quartiles(&empty).median;
    ensure!(empty > 0.0, "the kernel gives no time for a run");
    Ok(times.iter().map(|time| time - empty).collect())
}

fn copy(fd: &aya::programs::ProgramFd, name: &str) -> Result<Program> {
    let fd = fd.as_fd().try_clone_to_owned().with_context(|| format!("keep program {name}"))?;
    Ok(Program::from_fd(fd, name))
}

/// A test run can't give a packet tunnel metadata.
fn program(hook: Hook) -> Result<&'static str> {
    Ok(match hook {
        Hook::FromPod => prog::FROM_POD,
        Hook::ToPod => prog::TO_POD,
        Hook::ToOverlay => prog::TO_OVERLAY,
        Hook::FromUplink => prog::FROM_UPLINK,
        Hook::ToUplink => prog::TO_UPLINK,
        Hook::FromOverlay(..) => anyhow::bail!("a packet out of the tunnel can't be made up"),
    })
}

/// Puts the row's maps in the place of what was there. Flows that a row begins with are none of the samples'
/// business.
fn fill(object: &mut Object, state: &State, uplink: u32) -> Result<()> {
    object.clear()?;
    let mut facts = state.facts;
    facts.uplink_ifindex = uplink;
    object.set_facts(facts)?;
    // A test run's packets leave by the loopback where the program is one of egress.
    for ifindex in [uplink, POD_A_IFINDEX] {
        state.uplinks(ifindex).try_for_each(|(ifindex, addresses)| object.set_uplink(ifindex, addresses))?;
    }
    state.frontends.iter().try_for_each(|(key, frontend)| object.set_frontend(*key, *frontend))?;
    state.slots.iter().try_for_each(|(index, slot)| object.set_slot(*index, *slot))?;
    state.members.iter().try_for_each(|(member, windows)| object.set_member(*member, *windows))?;
    state.endpoints.iter().try_for_each(|(addr, endpoint)| object.set_endpoint(*addr, *endpoint))?;
    state.links.iter().try_for_each(|(ifindex, link)| object.set_link(*ifindex, *link))?;
    state.pod_cidrs.iter().try_for_each(|(len, addr, cidr)| object.set_pod_cidr(*len, *addr, *cidr))?;
    state.tunnel_peers.iter().try_for_each(|peer| object.set_tunnel_peer(*peer))?;
    Ok(())
}
