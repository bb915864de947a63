//! How many connections of this network namespace the kernel's connection table translates (ctnetlink).

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `linux/netfilter/nfnetlink_conntrack.h`: subsystem 1, message `IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = 1 << 8 | 1;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `CTA_STATUS`: 32 bits in network byte order.
const STATUS: u16 = 3;
/// `IPS_DST_NAT`, `IPS_DYING` of `linux/netfilter/nf_conntrack_common.h`.
const DST_NAT: u32 = 1 << 5;
const DYING: u32 = 1 << 9;
/// `struct nlmsghdr` and, behind it, `struct nfgenmsg`.
const HEADER: usize = 16;
const BODY: usize = HEADER + 4;
/// A dump is a row of datagrams; more than this is no connection table.
const MAX_DATAGRAMS: usize = 1 << 20;

/// Connections whose destination is translated, of both families.
///
/// # Errors
/// When the kernel does not tell.
pub fn translated() -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(), 0)?;
    let mut count = 0;
    for _ in 0..MAX_DATAGRAMS {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, &mut count)? {
            return Ok(count);
        }
    }
    Err(io::Error::other("the list does not end"))
}

fn request() -> Vec<u8> {
    let mut message = Vec::with_capacity(BODY);
    message.extend((BODY as u32).to_ne_bytes());
    message.extend(CT_GET.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and port; then any family, version 0, no resource.
    message.extend([0; BODY - 8]);
    message
}

/// Counts in one datagram. Whether it was the last.
fn read(datagram: &[u8], count: &mut usize) -> io::Result<bool> {
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) {
        let length = (length as usize).clamp(HEADER, rest.len());
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = word(rest, HEADER).unwrap_or_default().cast_signed();
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            _ => {
                let status = status(rest.get(BODY..length).unwrap_or_default());
                *count += usize::from(status & (DST_NAT | DYING) == DST_NAT);
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The status among a connection's attributes (`struct nlattr`: length, type, value, padding).
fn status(mut attributes: &[u8]) -> u32 {
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length).max(4);
        if kind == STATUS
            && let Some([a, b, c, d]) = attributes.get(4..8)
        {
            return u32::from_be_bytes([*a, *b, *c, *d]);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    0
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(status: u32) -> Vec<u8> {
        let attributes = [
            // A tuple that we skip: 6 bytes, padded to 8.
            vec![6, 0, 1, 0x80, 9, 9, 0, 0],
            [8_u16.to_ne_bytes().to_vec(), STATUS.to_ne_bytes().to_vec(), status.to_be_bytes().to_vec()]
                .concat(),
        ]
        .concat();
        let length = (BODY + attributes.len()) as u32;
        [&length.to_ne_bytes()[..], &[0, 1, 2, 0], &[0; BODY - 8], &attributes].concat()
    }

    #[test]
    fn translated_connections_that_live_are_counted() {
        let all = [
            connection(DST_NAT),
            connection(1 << 4),
            connection(DST_NAT | DYING),
            connection(DST_NAT | 1 << 3),
        ];
        let mut count = 0;
        assert!(!read(&all.concat(), &mut count).unwrap());
        assert_eq!(count, 2);
        let done = [&(HEADER as u32).to_ne_bytes()[..], &NLMSG_DONE.to_ne_bytes(), &[0; 10]].concat();
        assert!(read(&done, &mut count).unwrap());
        let refused =
            [&20_u32.to_ne_bytes()[..], &NLMSG_ERROR.to_ne_bytes(), &[0; 10], &(-1_i32).to_ne_bytes()];
        assert!(read(&refused.concat(), &mut count).is_err());
        assert!(!read(&[1, 2, 3], &mut count).unwrap());
    }
}
