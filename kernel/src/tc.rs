//! Direct-action BPF filters on a device's `clsact` qdisc: the older way to a tc hook (Linux 4.5).
//!
//! Why beside TCX: a TCX attachment waits for a whole RCU grace period while it holds the lock that all network
//! configuration takes (8–16 ms each on two idle CPUs at 250 Hz, and again when the device goes); a filter is in place
//! after 0.1 ms. A filter is replaced as atomically as a link's program, and goes with its device. What it lacks is an
//! owner: anybody may replace or delete it.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
};

use crate::{Direction, Error, sys};

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

const HEADER: usize = 16;
const TCMSG: usize = 20;
/// Room for one datagram of answers; each of ours is far smaller.
const RECEIVE: usize = 16 << 10;

/// A program for one side of a device; `name` is what `tc filter show` prints.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pub direction: Direction,
    pub program: BorrowedFd<'a>,
    pub name: &'a str,
}

/// Puts the programs on a device of the caller's network namespace, in the place of those that stood there under this
/// module's preference; makes the `clsact` qdisc first. No packet meets a moment without a program that was there.
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

/// Requests that go to the kernel in one write, and are answered one by one.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

struct Answer {
    result: io::Result<()>,
    /// What came besides the acknowledgement, from its `tcmsg` on.
    body: Option<Vec<u8>>,
}

impl Batch {
    fn qdisc(&mut self, ifindex: u32) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.message(RTM_NEWQDISC, flags, [ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0], |b| {
            attribute(b, TCA_KIND, b"clsact\0");
        });
    }

    fn filter(&mut self, ifindex: u32, filter: &Filter<'_>) {
        let numbers = filter_numbers(ifindex, filter.direction);
        self.message(RTM_NEWTFILTER, libc::NLM_F_CREATE, numbers, |bytes| {
            attribute(bytes, TCA_KIND, b"bpf\0");
            let mut options = Vec::new();
            attribute(&mut options, TCA_BPF_FD, &sys::raw(filter.program).to_ne_bytes());
            attribute(&mut options, TCA_BPF_NAME, format!("{}\0", filter.name).as_bytes());
            attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
            attribute(bytes, TCA_OPTIONS, &options);
        });
    }

    fn name_filter(&mut self, kind: u16, ifindex: u32, direction: Direction) {
        self.message(kind, 0, filter_numbers(ifindex, direction), |b| attribute(b, TCA_KIND, b"bpf\0"));
    }

    /// `numbers`: ifindex, handle, parent and info of `struct tcmsg`.
    fn message(&mut self, kind: u16, flags: i32, numbers: [u32; 4], body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.count += 1;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        // AF_UNSPEC and padding.
        self.bytes.extend([0; 4]);
        numbers.iter().for_each(|n| self.bytes.extend(n.to_ne_bytes()));
        body(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Acknowledgements come in the order of the requests, and no request goes without.
    fn run(self) -> io::Result<Vec<Answer>> {
        let mut socket = sys::netlink()?;
        socket.write_all(&self.bytes)?;
        let (mut answers, mut body, mut buffer) = (Vec::new(), None, vec![0; RECEIVE]);
        while answers.len() < self.count as usize {
            let length = socket.read(&mut buffer)?;
            let mut rest = &buffer[..length];
            while let Some((message, after)) = split(rest) {
                if u16::from_ne_bytes([message[4], message[5]]) == libc::NLMSG_ERROR as u16 {
                    let code = message.get(HEADER..HEADER + 4).and_then(number).unwrap_or(0) as i32;
                    let result = if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    answers.push(Answer { result, body: body.take() });
                } else {
                    body = message.get(HEADER..).map(<[u8]>::to_vec);
                }
                rest = after;
            }
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(answers)
    }
}

fn filter_numbers(ifindex: u32, direction: Direction) -> [u32; 4] {
    [ifindex, HANDLE, parent(direction), PREFERENCE << 16 | u32::from(ETH_P_ALL.to_be())]
}

/// Length and kind, then the value, then up to the next multiple of four.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The first message of a datagram, whole, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = number(bytes.get(..4)?)? as usize;
    let message = bytes.get(..length).filter(|_| length >= HEADER)?;
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const KIND: u16 = 0x3fff;
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]) & KIND;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// One of the attributes within a filter's options.
fn option(body: &[u8], kind: u16) -> Option<&[u8]> {
    find(find(body.get(TCMSG..)?, TCA_OPTIONS)?, kind)
}
