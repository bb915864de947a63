//! One seed's tables and packets, run through datapath and model side by side.

use std::collections::BTreeMap;

use proxy_abi::{Reason, Tuple};
use proxy_datapath::{
    Scratch, Tunnel, Verdict, from_overlay, from_pod, from_uplink, to_overlay, to_pod, to_uplink,
};

use crate::{
    cases::{Hook, POD_A_IFINDEX, State, state::addr},
    expect::{Fate, agrees, hex},
    memory::{Bytes, Maps},
    model::{Model, Seen},
    packets,
    random::Random,
    tables,
};

/// Packets of a world.
const PACKETS: usize = 40;
/// Seconds between two packets: mostly none, sometimes beyond a connection's time.
const PAUSES_S: [u32; 12] = [0, 0, 0, 0, 0, 0, 0, 1, 3, 31, 61, 130];
const LONG_S: u32 = 8_000;

/// How many packets ended under each reason.
pub type Tally = BTreeMap<Reason, usize>;

/// Runs a world.
///
/// # Errors
/// The first difference.
pub fn run(seed: u64, tell: bool, tally: &mut Tally) -> Result<(), String> {
    let mut random = Random::new(seed);
    let state = tables::state(&mut random);
    let mut maps = Maps::new(&state);
    let focus = tables::focus(&mut random, &state);
    let uplink = state.facts.uplink_ifindex;
    let mut model = Model::new(state, maps.now_s.get());
    // One for all, as in the kernel: what a packet leaves in it must not concern the next.
    let mut scratch = Scratch::default();
    for number in 0..PACKETS {
        let pause = if random.once_in(60) { LONG_S } else { random.pick(&PAUSES_S) };
        maps.now_s.set(maps.now_s.get() + pause);
        model.now_s = maps.now_s.get();
        if random.once_in(25) {
            tables::update(&mut random, &mut model.state);
            model.forget_tables();
            take_services(&mut maps, &model.state);
        }
        let known: Vec<Tuple> =
            model.connections.0.iter().flat_map(|known| [known.key, known.to.flip()]).collect();
        let (hook, input) = packets::next(&mut random, &known, focus);
        let mut packet = Bytes { data: input.clone(), uplink };
        let verdict = through(hook, &mut packet, &maps, &mut scratch);
        if tell {
            println!("{number} +{pause} s {hook:?} {}\n  {verdict:?}\n  {}", hex(&input), hex(&packet.data));
        }
        let judged = model.judge(hook, &input, &Seen { verdict, maps: &maps });
        let agreed = judged.and_then(|(fate, ip)| {
            agrees(&fate, ip.as_ref(), &input, &verdict, &packet.data)
                .map(|()| matches!(fate, Fate::Anything))
        });
        model.take_affinity(&maps);
        match agreed {
            Ok(false) => *tally.entry(verdict.reason).or_default() += 1,
            Ok(true) => return Ok(()),
            Err(difference) => {
                return Err(format!("packet {number} at {hook:?}: {difference}\n  frame {}", hex(&input)));
            }
        }
    }
    Ok(())
}

/// Services as a state has them now; all else stays.
fn take_services(maps: &mut Maps, state: &State) {
    maps.frontends = state.frontends.iter().copied().collect();
    maps.slots = state.slots.iter().copied().collect();
    maps.members = state.members.iter().copied().collect();
}

fn through(hook: Hook, packet: &mut Bytes, maps: &Maps, s: &mut Scratch) -> Verdict {
    match hook {
        Hook::FromPod => from_pod(packet, maps, s, POD_A_IFINDEX),
        Hook::ToPod => to_pod(packet, maps, s),
        Hook::FromOverlay(peer, vni) => {
            from_overlay(packet, maps, s, Some(&Tunnel { peer: addr(peer), vni }))
        }
        Hook::ToOverlay => to_overlay(packet, maps, s, false),
        Hook::FromUplink => from_uplink(packet, maps, s),
        Hook::ToUplink => to_uplink(packet, maps, s, packet.uplink),
    }
}
