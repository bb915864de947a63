//! The datapath as pure code: parse → look up → select → track → rewrite → verdict.
//!
//! Generic over [`Packet`] (an skb in the kernel, a `Vec<u8>` on the host), [`Tables`] (the maps) and [`Socket`], so that
//! the kernel, the test suite and `skerry trace` run the very same lines. One function a hook; IPv4 and IPv6 share all of
//! them. Nothing here may panic: the verifier rejects a program that can.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod answer;
mod balancer;
mod checksum;
mod crc32c;
mod direct;
mod express;
mod flow;
mod forward;
mod fragment;
mod head;
mod overlay;
mod own;
mod packet;
mod parse;
mod path;
mod peers;
mod pod;
mod rewrite;
mod service;
mod socket;
pub mod step;
mod tables;
mod unwrap;
mod uplink;
mod verdict;

pub use balancer::from_wire;
pub use checksum::{add as add_sums, fix_checksum, is_change};
pub use crc32c::Change;
pub use express::from_nic;
pub use flow::{Attempt, Fresh};
pub use forward::{Hop, Place};
pub use head::Head;
pub use overlay::{from_overlay, to_overlay};
pub use packet::{Frame, NextHop, Packet, Tunnel, Way};
pub use parse::{Kind, Shape, View, parse};
pub use pod::{from_pod, to_pod};
pub use service::{Choice, Found, Side};
pub use socket::{Socket, SocketVerdict, sock_connect, sock_peername, sock_recvmsg, sock_sendmsg};
pub use tables::{Insert, Round, Scratch, Tables};
pub use uplink::{from_uplink, to_uplink};
pub use verdict::{Action, Verdict};
