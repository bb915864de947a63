//! Counters of network interfaces, from `/proc/PID/net/dev`.
//!
//! A pod's are read inside its namespace, not at the node's end of its veth pair: packets that the datapath
//! hands straight into the pod (`bpf_redirect_peer`) pass that end by and are counted at the pod's own alone.

use std::fs;

/// One interface, from its own point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx: Direction,
    pub tx: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// All but loopback, as the process with this id sees them.
pub fn interfaces(process: i32) -> Option<Vec<Interface>> {
    Some(parse(&fs::read_to_string(format!("/proc/{process}/net/dev")).ok()?))
}

/// This process' own: the node's.
pub fn of_node() -> Option<Vec<Interface>> {
    Some(parse(&fs::read_to_string("/proc/self/net/dev").ok()?))
}

fn parse(table: &str) -> Vec<Interface> {
    let rows = table.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let direction = |at: usize| {
            let [bytes, packets, errors, dropped, ..] = *counters.get(at..)? else { return None };
            Some(Direction { bytes, packets, errors, dropped })
        };
        Some(Interface { name: name.trim().to_owned(), rx: direction(0)?, tx: direction(8)? })
    });
    let mut found: Vec<Interface> = rows.filter(|interface| interface.name != "lo").collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_without_loopback() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0\n  \
             eth0: 5000      50    1    2    0     0          0         0     7000      70    3    4    0     0       0          0\n";
        let eth0 = Interface {
            name: "eth0".to_owned(),
            rx: Direction { bytes: 5000, packets: 50, errors: 1, dropped: 2 },
            tx: Direction { bytes: 7000, packets: 70, errors: 3, dropped: 4 },
        };
        assert_eq!(parse(table), [eth0]);
        assert!(parse("garbage").is_empty());
    }
}
