//! Direct-action BPF filters on a device's `clsact` qdisc: the older way to a tc hook (Linux 4.5).
//!
//! Why beside TCX: a TCX attachment waits for a whole RCU grace period while it holds the lock that all
//! network configuration takes (8–16 ms each on two idle CPUs at 250 Hz, and again when the device goes); a
//! filter is in place after 0.1 ms. A filter is replaced as atomically as a link's program, and goes with its
//! device. What it lacks is an owner: anybody may replace or delete it.

use std::{io, os::fd::BorrowedFd};

use crate::{
    Direction, Error,
    netlink::{Batch, attribute, find, number},
    sys,
};

/// Our filter among those of a hook: the first of the first preference.
const PREFERENCE: u32 = 1;
const HANDLE: u32 = 1;

/// `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`, `linux/if_ether.h`.
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const MIN_INGRESS: u32 = 0xfff2;
const MIN_EGRESS: u32 = 0xfff3;
const ETH_P_ALL: u16 = 3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;

const TCMSG: usize = 20;

/// A program for one side of a device; `name` is what `tc filter show` prints.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pub direction: Direction,
    pub program: BorrowedFd<'a>,
    pub name: &'a str,
}

/// Puts the programs on a device of the caller's network namespace, in the place of those that stood there
/// under this module's preference; makes the `clsact` qdisc first. No packet meets a moment without a program
/// that was there.
pub fn attach_filters(ifindex: u32, filters: &[Filter<'_>]) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.qdisc(ifindex);
    for filter in filters {
        batch.filter(ifindex, filter);
    }
    let object = || format!("device {ifindex} (clsact)");
    let answers = batch.run().map_err(|e| Error::system("attach programs to", object(), e))?;
    for (index, answer) in answers.into_iter().enumerate() {
        match answer.result {
            // The qdisc is there already: ours, or another's that we may share.
            Err(e) if index == 0 && e.raw_os_error() == Some(libc::EEXIST) => {}
            result => result.map_err(|e| Error::system("attach programs to", object(), e))?,
        }
    }
    Ok(())
}

/// The id of the program that [`attach_filters`] put on this side of the device; `None`: nothing is there.
pub fn filter_program(ifindex: u32, direction: Direction) -> Result<Option<u32>, Error> {
    let body = filter_body(ifindex, direction)?;
    Ok(body.as_deref().and_then(|body| number(option(body, TCA_BPF_ID)?)))
}

/// The name that it was given there.
pub fn filter_name(ifindex: u32, direction: Direction) -> Result<Option<String>, Error> {
    let body = filter_body(ifindex, direction)?;
    let name = body.as_deref().and_then(|body| option(body, TCA_BPF_NAME));
    Ok(name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()))
}

/// The answer to the question for our filter, from its `tcmsg` on; `None`: there is none.
fn filter_body(ifindex: u32, direction: Direction) -> Result<Option<Vec<u8>>, Error> {
    let mut batch = Batch::default();
    batch.name_filter(RTM_GETTFILTER, ifindex, direction);
    let failed = |e| Error::system("ask what runs on", format!("device {ifindex} (clsact {direction:?})"), e);
    let answer = batch.run().map_err(failed)?.swap_remove(0);
    match answer.result {
        Ok(()) => Ok(answer.body),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Takes the program off this side of the device. `false`: nothing was there.
pub fn detach_filter(ifindex: u32, direction: Direction) -> Result<bool, Error> {
    let mut batch = Batch::default();
    batch.name_filter(RTM_DELTFILTER, ifindex, direction);
    let failed = |e| Error::system("detach the program from", format!("device {ifindex} ({direction:?})"), e);
    match batch.run().map_err(failed)?.swap_remove(0).result {
        Ok(()) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

/// No such filter; EINVAL: no such qdisc.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL))
}

fn parent(direction: Direction) -> u32 {
    let minor = match direction {
        Direction::Ingress => MIN_INGRESS,
        Direction::Egress => MIN_EGRESS,
    };
    (TC_H_CLSACT & 0xffff_0000) | minor
}

/// What a hook's filters are asked for and made by.
trait Filters {
    fn qdisc(&mut self, ifindex: u32);
    fn filter(&mut self, ifindex: u32, filter: &Filter<'_>);
    fn name_filter(&mut self, kind: u16, ifindex: u32, direction: Direction);
}

impl Filters for Batch {
    fn qdisc(&mut self, ifindex: u32) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.message(RTM_NEWQDISC, flags, &[ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0], |b| {
            attribute(b, TCA_KIND, b"clsact\0");
        });
    }

    fn filter(&mut self, ifindex: u32, filter: &Filter<'_>) {
        let numbers = filter_numbers(ifindex, filter.direction);
        self.message(RTM_NEWTFILTER, libc::NLM_F_CREATE, &numbers, |bytes| {
            attribute(bytes, TCA_KIND, b"bpf\0");
            let mut options = Vec::new();
            attribute(&mut options, TCA_BPF_FD, &sys::raw(filter.program).to_ne_bytes());
            attribute(&mut options, TCA_BPF_NAME, format!("{}\0", filter.name).as_bytes());
            attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
            attribute(bytes, TCA_OPTIONS, &options);
        });
    }

    fn name_filter(&mut self, kind: u16, ifindex: u32, direction: Direction) {
        self.message(kind, 0, &filter_numbers(ifindex, direction), |b| attribute(b, TCA_KIND, b"bpf\0"));
    }
}

fn filter_numbers(ifindex: u32, direction: Direction) -> [u32; 4] {
    [ifindex, HANDLE, parent(direction), PREFERENCE << 16 | u32::from(ETH_P_ALL.to_be())]
}

/// One of the attributes within a filter's options.
fn option(body: &[u8], kind: u16) -> Option<&[u8]> {
    find(find(body.get(TCMSG..)?, TCA_OPTIONS)?, kind)
}
