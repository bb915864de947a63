//! The datapath as pure code: parse → look up → select → track → rewrite → verdict.
//!
//! Generic over [`Packet`] (an skb in the kernel, a `Vec<u8>` on the host), [`Tables`] (the maps) and
//! [`Socket`], so that the kernel, the test suite and `skerry trace` run the very same lines. IPv4 and IPv6
//! share all of them. Nothing here may panic: the verifier rejects a program that can.
//!
//! | folder | what belongs there | may use |
//! | --- | --- | --- |
//! | `hooks` | one function a hook: what is asked in which order | all below |
//! | `steps` | look up, select, track, forward, refuse: what decides by the tables | `state`, `packets` |
//! | `state` | the tables' trait, and what one step leaves for the next | `packets` |
//! | `packets` | headers: read, rewrite, checksums, what is put around them | – |
//!
//! A NodePort's packet enters at `hooks/uplink.rs` (`from_uplink`), is given its backend by
//! `steps/service.rs` and is turned into the backend's in `packets/rewrite.rs`. A reason to drop is a variant
//! of `proxy_abi::Reason` with its text; a hook returns `Verdict::drop(reason)`, and counter, record, metric
//! and documentation follow.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

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
    outer::Tunnel,
    packet::{Frame, NextHop, Packet, Way},
    parse::parse,
    view::{Kind, Shape, View},
};
pub use state::{
    choice::{Choice, Found, Sender, Side},
    hop::{Hop, Place},
    scratch::{Attempt, Fresh, Scratch},
    tables::{Insert, Round, Tables},
    verdict::{Action, Verdict},
};
pub use steps::{PacketSteps, TableSteps};
