//! The datapath as pure code: parse → look up → select → track → rewrite → verdict.
//!
//! Generic over [`Packet`] (an skb in the kernel, a `Vec<u8>` on the host), [`Tables`] (the maps) and [`Socket`], so that
//! the kernel, the test suite and `skerry trace` run the very same lines. One function a hook; IPv4 and IPv6 share all of
//! them. Nothing here may panic: the verifier rejects a program that can.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod hooks;
mod packets;
mod state;
pub mod steps;

pub use hooks::{
    nic::from_nic,
    overlay::{from_overlay, to_overlay},
    pod::{from_pod, to_pod},
    socket::{Socket, SocketVerdict, sock_connect, sock_peername, sock_recvmsg, sock_sendmsg},
    uplink::{from_uplink, to_uplink},
    wire::from_wire,
};
pub use packets::{
    checksum::{add as add_sums, fix_checksum, is_change},
    crc32c::Change,
    head::Head,
    packet::{Frame, NextHop, Packet, Tunnel, Way},
    parse::{Kind, Shape, View, parse},
};
pub use state::{
    tables::{Insert, Round, Scratch, Tables},
    verdict::{Action, Verdict},
};
pub use steps::{
    flow::{Attempt, Fresh},
    forward::{Hop, Place},
    service::{Choice, Found, Side},
};
