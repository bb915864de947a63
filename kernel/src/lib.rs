//! A small synchronous face of `bpf(2)`: maps, programs, links and their pins by raw system calls.
//!
//! For processes that start often and live for milliseconds (the CNI plugin), and for the calls that aya 0.14
//! does not have (batches, replacing a cgroup link's program, queries by attachment). Nothing is cached,
//! nothing is spawned, nothing is loaded at start. All `unsafe` is in `sys`.
//!
//! - [`Map`], [`PerCpuMap`]: typed views of a map; opening one compares the kernel's sizes with the types'.
//! - [`Program`], [`Link`]: what runs and where; [`tcx_attachments`], [`cgroup_attachments`] ask a hook.
//! - [`Ran`]: what a program made of a made-up packet.
//! - [`attach_filters`], [`filter_program`], [`detach_filter`]: the same hooks by tc filters, where TCX is absent or slow.
//! - [`XdpChoice`], [`xdp_mode`]: where on a device an XDP program runs.
//! - [`Holder`]: pins that are made again when they go.
//! - [`is_bpffs`], [`mount_bpffs`], [`cgroup2_mount`]: where pins and cgroups live.
//! - [`Batch`], [`send_answers`]: datagrams by the many; [`pass_descriptors`]: sockets from one process to another.
//! - [`PacketSocket`]: frames of one device, past the network stack.
//! - [`return_freed_memory`], [`return_free_pages`], [`raise_open_files`]: what a process that lives long asks of the system.
//! - [`netns_cookie`], [`ifindex`], [`ifname`], [`in_netns`]: network namespaces and their devices.
#![deny(unsafe_code)]

mod batch;
mod datagram;
mod error;
mod fs;
mod link;
mod map;
mod memory;
mod net;
mod netlink;
mod packet;
mod pins;
mod program;
mod run;
#[expect(unsafe_code, reason = "system calls; every other module goes through this one")]
mod sys;
mod tc;
mod xdp;

pub use datagram::{Asker, Batch, answer_from_where_asked, pass_descriptors, send_answers, take_descriptors};
pub use error::Error;
pub use fs::{cgroup2_mount, is_bpffs, is_cgroup2, mount_bpffs, unmount};
pub use link::{
    Attachment, CgroupHook, Direction, Link, LinkInfo, LinkTarget, Order, XdpMode, cgroup_attachments,
    has_tcx, link_ids, tcx_attachments,
};
pub use map::{Map, MapInfo, MapSpec, PerCpuMap, Update, map_type, pinned_map_info};
pub use memory::{raise_open_files, return_free_pages, return_freed_memory};
pub use net::{ifindex, ifname, in_netns, kernel_release, netns_cookie, source_towards_outside};
pub use packet::{ClassicInstruction, PacketSocket};
pub use pins::Holder;
pub use program::{Instruction, Program, ProgramInfo, instruction, program_type};
pub use run::{Ran, skb_context, xdp_context};
pub use tc::{Filter, attach_filters, detach_filter, filter_name, filter_program};
pub use xdp::{XdpChoice, xdp_mode};
