//! Maglev hashing: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
//! section 3.4.

use crate::{desired::Backend, model::fnv1a};

/// Table sizes that an annotation may ask for; others are rounded up. Primes: each backend's walk must reach
/// every element.
const SIZES: [u32; 9] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521];
/// Elements a backend at least. What moves besides the share of the backend that goes shrinks with it: with
/// 800 a change of one in 20 moves 1.19/20 of the flows, with 200 1.37/20 (measured by the test below).
const ELEMENTS_PER_BACKEND: u32 = 800;
pub(crate) const DEFAULT_SIZE: u32 = 1021;

/// The smallest size of ours that is no smaller than `asked`.
pub(crate) fn size(asked: u32) -> u32 {
    SIZES.into_iter().find(|size| *size >= asked).unwrap_or(SIZES[SIZES.len() - 1])
}

/// A table in which each backend takes as many turns as its weight says, and has nearly that share of the
/// elements; one with weight 0 has none. It depends on the backends alone, not on their order or history:
/// every node makes the same. Backends are told apart by address and port only, so that one that begins to
/// terminate keeps its place. `size` is raised where there are too many backends for it.
pub fn weighted(backends: &[(Backend, u32)], size: u32) -> Vec<Backend> {
    let mut sorted: Vec<(Backend, u32)> =
        backends.iter().filter(|(_, weight)| *weight > 0).copied().collect();
    if sorted.is_empty() {
        return Vec::new();
    }
    let needed = (sorted.len() as u32).saturating_mul(ELEMENTS_PER_BACKEND);
    let size = self::size(size.max(needed)) as usize;
    sorted.sort_unstable();
    let mut walks: Vec<Walk> = sorted.iter().map(|(backend, _)| Walk::of(backend, size)).collect();
    let mut table: Vec<Option<u32>> = vec![None; size];
    let mut filled = 0;
    while filled < size {
        for (number, walk) in walks.iter_mut().enumerate() {
            for _ in 0..sorted[number].1 {
                if filled == size {
                    break;
                }
                while table[walk.at].is_some() {
                    walk.go(size);
                }
                table[walk.at] = Some(number as u32);
                filled += 1;
            }
        }
    }
    table.into_iter().flatten().map(|number| sorted[number as usize].0).collect()
}

/// A backend's permutation of the elements: it begins somewhere and goes on in equal steps.
struct Walk {
    at: usize,
    step: usize,
}

impl Walk {
    fn of(backend: &Backend, size: usize) -> Walk {
        let name = [&backend.addr.octets()[..], &backend.port.get().to_be_bytes()].concat();
        let size = size as u64;
        let hash = |seed: u64| mix(fnv1a(seed, &name));
        Walk {
            at: (hash(0xcbf2_9ce4_8422_2325) % size) as usize,
            step: (hash(0x9ae1_6a3b_2f90_404f) % (size - 1) + 1) as usize,
        }
    }

    fn go(&mut self, size: usize) {
        self.at = (self.at + self.step) % size;
    }
}

/// FNV leaves the high bits of short names alike.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proxy_abi::Be16;

    use super::*;

    fn table(backends: &[Backend], size: u32) -> Vec<Backend> {
        weighted(&backends.iter().map(|backend| (*backend, 1)).collect::<Vec<_>>(), size)
    }

    fn backends(count: u8) -> Vec<Backend> {
        let one =
            |n: u8| Backend { addr: proxy_abi::Addr::from_v4([10, 0, 0, n]), port: Be16::new(80), flags: 0 };
        (1..=count).map(one).collect()
    }

    #[test]
    fn shares_are_even_and_the_order_does_not_matter() {
        for count in [1_u8, 2, 3, 7, 20, 50] {
            let backends = backends(count);
            let made = table(&backends, DEFAULT_SIZE);
            assert!(made.len() >= usize::from(count) * 800 && made.len() <= 65_521);
            let mut shares: HashMap<Backend, usize> = HashMap::new();
            made.iter().for_each(|backend| *shares.entry(*backend).or_default() += 1);
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            assert!(shares.len() == usize::from(count) && most - least <= 1, "{count}: {least} to {most}");
            let reversed: Vec<Backend> = backends.into_iter().rev().collect();
            assert_eq!(table(&reversed, DEFAULT_SIZE), made);
        }
        assert!(table(&[], DEFAULT_SIZE).is_empty());
    }

    /// The elements that change hands when one of `n` backends goes or comes; the limit is 1.25/n.
    #[test]
    fn few_flows_move_when_a_backend_comes_or_goes() {
        for count in [3_u8, 5, 10, 20] {
            let all = backends(count);
            let before = table(&all, DEFAULT_SIZE);
            let mut worst: f64 = 0.0;
            for gone in 0..all.len() {
                let mut rest = all.clone();
                rest.remove(gone);
                let after = table(&rest, before.len() as u32);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                worst = worst.max(moved as f64 / before.len() as f64);
            }
            println!(
                "{count} backends, one goes: {worst:.3} of the flows move (1/n is {:.3})",
                1.0 / f64::from(count)
            );
            assert!(worst <= 1.25 / f64::from(count), "{count}: {worst}");
        }
    }

    #[test]
    fn a_weight_is_a_share() {
        let all = backends(3);
        let made = weighted(&[(all[0], 3), (all[1], 1), (all[2], 0)], DEFAULT_SIZE);
        let share = made.iter().filter(|backend| **backend == all[0]).count() as f64 / made.len() as f64;
        assert!((0.74..0.76).contains(&share) && !made.contains(&all[2]), "{share}");
    }

    #[test]
    fn sizes_are_primes_that_suffice() {
        assert_eq!((size(0), size(1000), size(1022), size(1 << 20)), (251, 1021, 2039, 65_521));
        assert!(SIZES.iter().all(|size| (2..*size).take_while(|n| n * n <= *size).all(|n| size % n != 0)));
        assert_eq!(table(&backends(100), 251).len(), 65_521, "raised for many backends");
    }
}
