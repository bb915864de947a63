//! Requests to rtnetlink and their answers: the little that tc filters and devices are asked for.

use std::io::{self, Read, Write};

use crate::sys;

const HEADER: usize = 16;
/// Room for one datagram of answers; each of ours is far smaller.
const RECEIVE: usize = 16 << 10;

/// Requests that go to the kernel in one write, and are answered one by one.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

pub(crate) struct Answer {
    pub result: io::Result<()>,
    /// What came besides the acknowledgement, from its fixed part on.
    pub body: Option<Vec<u8>>,
}

impl Batch {
    /// `numbers`: what follows the family and its padding in the message's fixed part (`struct tcmsg`,
    /// `struct ifinfomsg`).
    pub fn message(&mut self, kind: u16, flags: i32, numbers: &[u32], body: impl FnOnce(&mut Vec<u8>)) {
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
    pub fn run(self) -> io::Result<Vec<Answer>> {
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

/// Length and kind, then the value, then up to the next multiple of four.
pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
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

pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
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
