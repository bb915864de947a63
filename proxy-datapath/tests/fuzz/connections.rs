//! Connections as one thing each, as conntrack has them; the datapath keeps two entries.

use proxy_abi::{Facts, Tuple, proto};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A closed connection's port is left alone so long even where ports are rare.
const CLOSED_S: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Begun,
    Established,
    Over,
}

#[derive(Clone, Debug)]
pub struct Connection {
    /// As its first packet came in, and what that became.
    pub key: Tuple,
    pub to: Tuple,
    /// When a packet came last, there and back.
    seen_s: [u32; 2],
    fin: [bool; 2],
    /// Its last packet was a reset.
    reset: [bool; 2],
    answered: bool,
    established: bool,
    /// Closed by both sides, or reset.
    over: bool,
    /// Its answers pass elsewhere.
    pub direct: bool,
}

#[derive(Default)]
pub struct Connections(pub Vec<Connection>);

fn limit_s(facts: &Facts, protocol: u8, stage: Stage) -> u32 {
    match (protocol, stage) {
        (proto::TCP, Stage::Begun) => facts.tcp_syn_s,
        (proto::TCP, Stage::Established) => facts.tcp_established_s,
        (proto::TCP, Stage::Over) => facts.tcp_closing_s,
        (proto::ICMP | proto::ICMPV6, _) => facts.icmp_s,
        (_, Stage::Begun) => facts.udp_s,
        _ => facts.udp_stream_s,
    }
}

impl Connection {
    fn stage(&self) -> Stage {
        match (self.over, self.established) {
            (true, _) => Stage::Over,
            (false, true) => Stage::Established,
            (false, false) => Stage::Begun,
        }
    }

    /// A TCP segment.
    fn hear(&mut self, way: usize, flags: u8) {
        self.fin[way] |= flags & FIN != 0;
        if flags & RST != 0 {
            (self.reset[way], self.over) = (true, true);
            return;
        }
        // Who has really reset a connection says nothing more but resets.
        if std::mem::take(&mut self.reset[way]) {
            self.over = self.reset[1 - way] || self.fin == [true; 2];
        }
        self.over |= self.fin == [true; 2];
    }

    fn is_dead(&self, facts: &Facts, now_s: u32) -> bool {
        let limit = limit_s(facts, self.key.proto, self.stage());
        let seen = if self.direct { &self.seen_s[..1] } else { &self.seen_s };
        seen.iter().all(|seen| now_s - seen > limit)
    }

    /// Whether its port may be given to another, if need be.
    fn gives_way(&self, facts: &Facts, now_s: u32) -> bool {
        let begun = self.stage() == Stage::Begun;
        begun
            || self.is_dead(facts, now_s)
            || (self.over && self.seen_s.iter().all(|seen| now_s - seen >= CLOSED_S))
    }
}

impl Connections {
    fn find(&self, tuple: &Tuple) -> Option<(usize, usize)> {
        self.0.iter().enumerate().find_map(|(index, known)| {
            if known.key == *tuple {
                Some((index, 0))
            } else if !known.direct && known.to.flip() == *tuple {
                Some((index, 1))
            } else {
                None
            }
        })
    }

    fn translation(&self, (index, way): (usize, usize)) -> Tuple {
        if way == 0 { self.0[index].to } else { self.0[index].key.flip() }
    }

    /// What an ICMP error about a connection becomes, and whether that is a direct one: the connection itself
    /// is left alone.
    pub fn peek(&self, tuple: &Tuple) -> Option<(Tuple, bool)> {
        self.find(tuple).map(|found| (self.translation(found), self.0[found.0].direct))
    }

    /// A packet of a connection: what its tuple becomes, and whether it is a direct one; none if it belongs
    /// to none that lives.
    pub fn meet(&mut self, facts: &Facts, tuple: &Tuple, flags: u8, now_s: u32) -> Option<(Tuple, bool)> {
        let (index, way) = self.find(tuple)?;
        let known = &mut self.0[index];
        let tcp = tuple.proto == proto::TCP;
        let again =
            tcp && flags & (SYN | ACK) == SYN && (known.over || now_s - known.seen_s[way] > facts.tcp_syn_s);
        if again || known.is_dead(facts, now_s) {
            self.0.remove(index);
            return None;
        }
        let later = std::mem::replace(&mut known.seen_s[way], now_s) != now_s;
        known.answered |= way == 1;
        if known.direct {
            // The client's side alone tells.
            known.over |= tcp && flags & (FIN | RST) != 0;
            known.established |= !known.over && (!tcp || flags & (SYN | ACK) == ACK);
            return Some((known.to, true));
        }
        if tcp {
            known.hear(way, flags);
        }
        let proven = match tuple.proto {
            proto::TCP => way == 0 && flags & (SYN | ACK | RST) == ACK,
            proto::SCTP => way == 0,
            _ => later,
        };
        known.established |= known.answered && proven && !known.over;
        Some((self.translation((index, way)), false))
    }

    /// Whether a connection that became `to` could be told from all others by its answers, nobody else's
    /// taken away that still needs it.
    pub fn is_free(&self, facts: &Facts, to: &Tuple, now_s: u32) -> bool {
        self.find(&to.flip())
            .is_none_or(|(index, _)| !self.0[index].direct && self.0[index].is_dead(facts, now_s))
    }

    /// As [`Connections::is_free`], or it is the port of one that is closed.
    pub fn could_be_freed(&self, facts: &Facts, to: &Tuple, now_s: u32) -> bool {
        self.find(&to.flip())
            .is_none_or(|(index, _)| !self.0[index].direct && self.0[index].gives_way(facts, now_s))
    }

    /// Another node has taken the client over.
    pub fn forget_direct(&mut self, key: &Tuple) {
        self.0.retain(|known| !known.direct || known.key != *key);
    }

    /// Whether answers to a packet that goes on as it is would look like a connection's.
    pub fn is_answered_for_another(&self, tuple: &Tuple) -> bool {
        matches!(self.find(&tuple.flip()), Some((_, 1)))
    }

    pub fn begin(&mut self, key: Tuple, to: Tuple, now_s: u32, direct: bool) {
        if !direct && let Some((index, _)) = self.find(&to.flip()) {
            self.0.remove(index);
        }
        self.0.push(Connection {
            key,
            to,
            seen_s: [now_s; 2],
            fin: [false; 2],
            reset: [false; 2],
            answered: false,
            established: false,
            over: false,
            direct,
        });
    }
}
