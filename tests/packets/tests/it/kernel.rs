//! The rows of the case table in the kernel, by `BPF_PROG_TEST_RUN`.
//!
//! Rows with packets out of the tunnel are left out: a test run can't give a packet tunnel metadata. They run
//! on the host, and with real packets in `nodes.rs`.

use std::error::Error as _;

use crate::cases::{self, Case, Hook, POD_A_IFINDEX, State, line};
use proxy_abi::{Reason, prog};
use proxy_datapath::Action;
use skerry_lab::Netns;
use skerry_packet_cases::Object;

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

#[test]
fn every_row_without_a_tunnel_packet_holds_in_the_kernel() {
    every_row(run);
}

/// Devices that sum up what they receive leave it to the programs to keep that sum right: IPv4's header
/// checksum makes up for what changes in its header, IPv6 has none.
#[test]
fn the_sum_that_a_device_made_of_a_packet_stays_right() {
    every_row(run_summed);
}

fn every_row(run: fn(&Case, &mut Object, u32) -> Result<(), String>) {
    let netns = namespace_with_routes();
    let uplink = netns.run(|| nix::net::if_::if_nametoindex("up0")).unwrap().unwrap();
    let mut object = Object::load().unwrap();
    let (mut ran, mut failures) = (0, Vec::new());
    for case in cases::all() {
        if case.passages.iter().any(|passage| matches!(passage.hook, Hook::FromOverlay(..))) {
            continue;
        }
        ran += 1;
        if let Err(failure) = netns.run(|| run(&case, &mut object, uplink)).unwrap() {
            failures.push(format!("{}, {failure}", case.name));
        }
    }
    println!("{ran} rows");
    assert!(failures.is_empty(), "{} of {ran} rows failed:\n{}", failures.len(), failures.join("\n"));
}

/// A way out by `up0`, and no route to 198.51.100.0/24.
fn namespace_with_routes() -> Netns {
    let netns = Netns::unique("cases").unwrap();
    netns.ip("link add up0 type veth peer name up1").unwrap();
    netns.ip("link set up1 up").unwrap();
    netns.ip("link set up0 up").unwrap();
    netns.ip("addr add 192.168.50.1/24 dev up0").unwrap();
    netns.ip("addr add 2001:db8::1/64 dev up0 nodad").unwrap();
    netns.ip("route add default via 192.168.50.254").unwrap();
    netns.ip("-6 route add default via 2001:db8::fe dev up0").unwrap();
    netns.ip("route add blackhole 198.51.100.0/24").unwrap();
    for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        netns.run(|| std::fs::write(format!("/proc/sys/net/{knob}"), "1")).unwrap().unwrap();
    }
    netns
}

fn run(case: &Case, object: &mut Object, uplink: u32) -> Result<(), String> {
    fill(object, &case.state, uplink);
    for (index, passage) in case.passages.iter().enumerate() {
        let at = format!("passage {}", index + 1);
        let before = object.counted(passage.reason).unwrap();
        let (answer, output) = object.test_run(program(passage.hook), POD_A_IFINDEX, &passage.input).unwrap();
        if answer != expected_answer(passage.action) {
            let counted: Vec<&Reason> =
                Reason::ALL.iter().filter(|r| object.counted(**r).unwrap() > 0).collect();
            return Err(format!(
                "{at}: answer {answer} instead of {:?}; counted so far {counted:?}",
                passage.action
            ));
        }
        if object.counted(passage.reason).unwrap() != before + 1 {
            return Err(format!("{at}: not counted as {:?}", passage.reason));
        }
        if let Some(expected) = &passage.output
            && *expected != output
        {
            return Err(format!("{at}: the packet\n  is  {}\n  not {}", hex(&output), hex(expected)));
        }
    }
    let Some(expected) = &case.flows else { return Ok(()) };
    let mut flows: Vec<String> = object.flows().unwrap().iter().map(|(key, flow)| line(key, flow)).collect();
    flows.sort();
    if flows == *expected { Ok(()) } else { Err(format!("flows\n  are {flows:#?}\n  not {expected:#?}")) }
}

/// Two kinds of packets are left out. One that becomes an answer of another length loses its sum with its
/// length, as the kernel does it; and nobody looks at the sum of a datagram without a checksum.
fn run_summed(case: &Case, object: &mut Object, uplink: u32) -> Result<(), String> {
    if case.name == "a datagram without a checksum stays without one" {
        return Ok(());
    }
    fill(object, &case.state, uplink);
    for (index, passage) in case.passages.iter().enumerate() {
        if passage.output.as_ref().is_some_and(|output| output.len() != passage.input.len()) {
            continue;
        }
        let done = object.test_run_summed(program(passage.hook), POD_A_IFINDEX, &passage.input);
        let answer = done.map_err(|error| format!("passage {}: {error}: {:?}", index + 1, error.source()))?;
        if answer != expected_answer(passage.action) {
            return Err(format!("passage {}: answer {answer} instead of {:?}", index + 1, passage.action));
        }
    }
    Ok(())
}

/// Puts the row's maps in the place of what was there.
/// Writes a row's tables.
pub fn fill(object: &mut Object, state: &State, uplink: u32) {
    object.clear().unwrap();
    let mut facts = state.facts;
    facts.uplink_ifindex = uplink;
    object.set_facts(facts).unwrap();
    // A test run's packets leave by the loopback where the program is one of egress.
    for ifindex in [uplink, POD_A_IFINDEX] {
        for (ifindex, addresses) in state.uplinks(ifindex) {
            object.set_uplink(ifindex, addresses).unwrap();
        }
    }
    for (key, frontend) in &state.frontends {
        object.set_frontend(*key, *frontend).unwrap();
    }
    for (index, slot) in &state.slots {
        object.set_slot(*index, *slot).unwrap();
    }
    for range in &state.source_ranges {
        object.set_source_range(*range).unwrap();
    }
    for (member, windows) in &state.members {
        object.set_member(*member, *windows).unwrap();
    }
    for (addr, endpoint) in &state.endpoints {
        object.set_endpoint(*addr, *endpoint).unwrap();
    }
    for (ifindex, link) in &state.links {
        object.set_link(*ifindex, *link).unwrap();
    }
    for (length, prefix, cidr) in &state.pod_cidrs {
        object.set_pod_cidr(*length, *prefix, *cidr).unwrap();
    }
    for peer in &state.tunnel_peers {
        object.set_tunnel_peer(*peer).unwrap();
    }
    let now_s = monotonic_s();
    for row in &state.flows {
        let mut flow = row.flow;
        flow.seen_s = now_s.wrapping_sub(row.age_s);
        object.set_flow(row.key, flow).unwrap();
    }
}

/// The clock that the programs read: it moves with the timer tick, so it may show the second before the fine
/// clock's.
fn monotonic_s() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    now.tv_sec() as u32
}

fn program(hook: Hook) -> &'static str {
    match hook {
        Hook::FromPod => prog::FROM_POD,
        Hook::ToPod => prog::TO_POD,
        Hook::FromOverlay(..) => prog::FROM_OVERLAY,
        Hook::ToOverlay => prog::TO_OVERLAY,
        Hook::FromUplink => prog::FROM_UPLINK,
        Hook::ToUplink => prog::TO_UPLINK,
    }
}

fn expected_answer(action: Action) -> i32 {
    match action {
        Action::Pass | Action::Keyed => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Deliver
        | Action::Tunnel
        | Action::Out
        | Action::Addressed
        | Action::Answer
        | Action::TakenIn => TC_ACT_REDIRECT,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
