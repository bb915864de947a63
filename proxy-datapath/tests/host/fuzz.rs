//! Hostile bytes: no packet makes the datapath panic, and none that it refuses to read is passed on changed.

use crate::cases::{self, Case, Hook};
use crate::memory::{Bytes, Maps, run};
use proxy_datapath::Action;

const HOOKS: [Hook; 6] = [
    Hook::FromPod,
    Hook::ToPod,
    Hook::FromOverlay("192.168.50.2", 1),
    Hook::ToOverlay,
    Hook::FromUplink,
    Hook::ToUplink,
];
const RANDOM_PACKETS: u32 = 60_000;

fn packets() -> Vec<(Case, Vec<u8>)> {
    let mut all = Vec::new();
    for case in cases::all() {
        if let Some(passage) = case.passages.last() {
            let input = passage.input.clone();
            all.push((case, input));
        }
    }
    all
}

#[test]
fn a_packet_cut_at_any_byte_is_survived_by_every_hook() {
    for (case, input) in packets() {
        let maps = Maps::new(&case.state);
        for length in 0..own_length(&input) {
            for hook in HOOKS {
                let mut packet = Bytes { data: input[..length].to_vec(), uplink: 7 };
                let verdict = run(hook, &mut packet, &maps);
                // Shorter than its IP header says: nothing of ours may act on it.
                let untouched = verdict.action == Action::Drop || packet.data == input[..length];
                assert!(untouched, "{}: {length} bytes, {hook:?}: {verdict:?} changed the packet", case.name);
            }
        }
    }
}

/// Without what the frame is padded with behind the packet.
fn own_length(frame: &[u8]) -> usize {
    let word =
        |at: usize| frame.get(at..at + 2).map_or(0, |raw| usize::from(u16::from_be_bytes([raw[0], raw[1]])));
    let packet = match word(12) {
        0x0800 => 14 + word(16),
        0x86dd => 54 + word(18),
        _ => frame.len(),
    };
    packet.min(frame.len())
}

#[test]
fn random_changes_to_real_packets_are_survived_by_every_hook() {
    let packets = packets();
    let mut random = Random(0x5eed_0000_0000_0001);
    let maps: Vec<Maps> = packets.iter().map(|(case, _)| Maps::new(&case.state)).collect();
    for _ in 0..RANDOM_PACKETS {
        let index = random.below(packets.len());
        let mut data = packets[index].1.clone();
        for _ in 0..=random.below(6) {
            if data.is_empty() {
                break;
            }
            let at = random.below(data.len());
            match random.below(4) {
                0 => data[at] = random.next() as u8,
                1 => data[at] ^= 1 << random.below(8),
                2 => data.truncate(at),
                _ => data.insert(at, random.next() as u8),
            }
        }
        let hook = HOOKS[random.below(HOOKS.len())];
        run(hook, &mut Bytes { data, uplink: 7 }, &maps[index]);
    }
}

#[test]
fn noise_is_survived_by_every_hook() {
    let maps = Maps::new(&cases::State::standard());
    let mut random = Random(0x5eed_0000_0000_0002);
    for _ in 0..RANDOM_PACKETS {
        let length = random.below(200);
        let mut data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if data.len() > 14 && random.below(2) == 0 {
            let family: [u8; 3] = if random.below(2) == 0 { [8, 0, 0x45] } else { [0x86, 0xdd, 0x60] };
            data[12..15].copy_from_slice(&family);
        }
        run(HOOKS[random.below(HOOKS.len())], &mut Bytes { data, uplink: 7 }, &maps);
    }
}

/// xorshift64: a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit.max(1)
    }
}
