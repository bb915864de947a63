//! How long a silent flow is remembered: one table for the programs, which take an entry that is over for
//! none, and for those who clear the table away.

use crate::{Facts, Flow, Tuple, flow_state, proto};

/// Seconds between two readings of the programs' clock, `bpf_ktime_get_coarse_ns / 1e9`. It goes round after
/// 136 years of uptime, and another CPU's may be a tick ahead: a time that lies before `seen_s` is none at
/// all.
#[inline(always)]
pub const fn idle_s(now_s: u32, seen_s: u32) -> u32 {
    let idle = now_s.wrapping_sub(seen_s);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

impl Facts {
    /// Seconds that a flow of this protocol (IANA's number) and [`flow_state`] may be silent; 0: for ever.
    /// Whatever is neither TCP nor ICMP is a stream of datagrams, SCTP as well.
    #[inline(always)]
    pub const fn timeout_s(&self, protocol: u8, state: u8) -> u32 {
        match (protocol, state) {
            (proto::TCP, flow_state::EMBRYONIC) => self.tcp_syn_s,
            (proto::TCP, flow_state::ESTABLISHED) => self.tcp_established_s,
            (proto::TCP, _) => self.tcp_closing_s,
            (proto::ICMP | proto::ICMPV6, _) => self.icmp_s,
            (_, flow_state::EMBRYONIC) => self.udp_s,
            (_, _) => self.udp_stream_s,
        }
    }

    /// Whether a flow of this protocol and [`flow_state`] that was silent for `idle_s` seconds is over.
    #[inline(always)]
    pub const fn is_over(&self, protocol: u8, state: u8, idle_s: u32) -> bool {
        let limit_s = self.timeout_s(protocol, state);
        limit_s != 0 && idle_s > limit_s
    }

    /// Whether one entry of `FLOWS` was silent for too long at `now_s`. The flow lives as long as one of its
    /// two entries does.
    #[inline(always)]
    pub const fn is_silent(&self, key: &Tuple, flow: &Flow, now_s: u32) -> bool {
        self.is_over(key.proto, flow.state, idle_s(now_s, flow.seen_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            tcp_syn_s: 1,
            tcp_established_s: 2,
            tcp_closing_s: 3,
            udp_s: 4,
            udp_stream_s: 5,
            icmp_s: 6,
            ..Facts::default()
        }
    }

    #[test]
    fn each_protocol_and_state_has_its_time() {
        let of = |protocol| {
            [flow_state::EMBRYONIC, flow_state::ESTABLISHED, flow_state::CLOSING]
                .map(|state| facts().timeout_s(protocol, state))
        };
        assert_eq!(of(proto::TCP), [1, 2, 3]);
        assert_eq!(of(proto::UDP), [4, 5, 5]);
        assert_eq!(of(proto::SCTP), [4, 5, 5], "datagrams' times, not ICMP's");
        // GRE: whatever has no ports.
        assert_eq!(of(47), [4, 5, 5]);
        assert_eq!(of(proto::ICMP), [6; 3]);
        assert_eq!(of(proto::ICMPV6), [6; 3]);
    }

    #[test]
    fn a_flow_is_over_after_its_time_and_not_with_it() {
        assert!(!facts().is_over(proto::UDP, flow_state::EMBRYONIC, 4));
        assert!(facts().is_over(proto::UDP, flow_state::EMBRYONIC, 5));
    }

    #[test]
    fn a_time_of_0_is_for_ever() {
        for protocol in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP, proto::ICMPV6] {
            for state in [flow_state::EMBRYONIC, flow_state::ESTABLISHED, flow_state::CLOSING] {
                assert!(!Facts::default().is_over(protocol, state, u32::MAX), "{protocol} {state}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_behind_counts_nothing_and_one_that_has_gone_round_counts_on() {
        assert_eq!(idle_s(100, 101), 0);
        assert_eq!(idle_s(100, 100), 0);
        assert_eq!(idle_s(100, 40), 60);
        assert_eq!(idle_s(2, u32::MAX), 3);
        assert_eq!(idle_s(0, 1 << 31), 0);
        assert_eq!(idle_s(u32::MAX / 2, 0), u32::MAX / 2);
    }

    #[test]
    fn an_entry_is_silent_by_its_own_protocol_state_and_last_packet() {
        let key = Tuple { proto: proto::TCP, ..Tuple::default() };
        let flow = Flow { state: flow_state::ESTABLISHED, seen_s: 10, ..Flow::default() };
        assert!(!facts().is_silent(&key, &flow, 12));
        assert!(facts().is_silent(&key, &flow, 13));
        assert!(!facts().is_silent(&key, &Flow { seen_s: 14, ..flow }, 13));
        assert!(facts().is_silent(&key, &Flow { state: flow_state::EMBRYONIC, ..flow }, 12));
    }
}
