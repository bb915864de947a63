//! Datagrams by the batch, and descriptors through a Unix socket.

use std::{
    io,
    mem::{self, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// Room for one `IP_PKTINFO` or `IPV6_PKTINFO`, aligned as control messages are.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control([u8; 64]);

/// Where a datagram came from and which of our addresses it was sent to, in the kernel's form.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    name: libc::sockaddr_storage,
    name_bytes: libc::socklen_t,
    control: Control,
    control_bytes: usize,
}

impl Peer {
    pub(crate) fn none() -> Peer {
        // SAFETY: a `sockaddr_storage` of zeros is one of no family.
        let name = unsafe { MaybeUninit::zeroed().assume_init() };
        Peer { name, name_bytes: 0, control: Control([0; 64]), control_bytes: 0 }
    }

    /// IPv4 addresses come out of a socket for both families as what they are.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let storage: *const libc::sockaddr_storage = &self.name;
        match i32::from(self.name.ss_family) {
            libc::AF_INET if self.name_bytes as usize >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the storage is large enough and aligned for each form of address, and the kernel
                // wrote this one.
                let v4 = unsafe { storage.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if self.name_bytes as usize >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { storage.cast::<libc::sockaddr_in6>().read() };
                let port = u16::from_be(v6.sin6_port);
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddrV4::new(v4, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }

    /// The address of ours that it was sent to.
    pub(crate) fn local(&self) -> Option<IpAddr> {
        let (level, kind, data) = self.info()?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // `in_pktinfo`: device, the address of ours, the packet's destination.
                let bytes: [u8; 4] = data.get(4..8)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let bytes: [u8; 16] = data.get(..16)?.try_into().ok()?;
                let ip = Ipv6Addr::from(bytes);
                Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
            }
            _ => None,
        }
    }

    /// Level, type and content of the control message that the kernel wrote.
    fn info(&self) -> Option<(i32, i32, &[u8])> {
        let head = size_of::<libc::cmsghdr>();
        let bytes = self.control.0.get(..self.control_bytes)?;
        if bytes.len() < head {
            return None;
        }
        // SAFETY: there are enough bytes, aligned as a header is, and any bytes are one.
        let header = unsafe { bytes.as_ptr().cast::<libc::cmsghdr>().read() };
        let data = bytes.get(head..header.cmsg_len.min(bytes.len()))?;
        Some((header.cmsg_level, header.cmsg_type, data))
    }

    /// Makes of what came with a question what goes with its answer: the same address of ours, by whatever
    /// device.
    fn turn(&mut self) {
        let head = size_of::<libc::cmsghdr>();
        match self.info().map(|(level, kind, _)| (level, kind)) {
            Some((libc::IPPROTO_IP, libc::IP_PKTINFO)) => self.control.0[head..head + 4].fill(0),
            Some((libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)) => {
                let bytes: [u8; 16] = self.control.0[head..head + 16].try_into().unwrap_or_default();
                let ip = Ipv6Addr::from(bytes);
                // Addresses of a link mean nothing without their device.
                if !ip.is_unicast_link_local() {
                    self.control.0[head + 16..head + 20].fill(0);
                }
            }
            _ => self.control_bytes = 0,
        }
    }
}

/// Asks the kernel to say with each datagram which of our addresses it was sent to.
pub(crate) fn tell_destination(socket: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    let (level, option) = match is_v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
    };
    let yes: i32 = 1;
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an `int` that lives across the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&yes).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for a datagram and takes those that are there, as many as there are buffers: of each the peer, and
/// how long it is. One that was longer than its buffer has length 0.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffers: &mut [Vec<u8>],
    peers: &mut [Peer],
    lengths: &mut [usize],
) -> io::Result<usize> {
    let count = buffers.len().min(peers.len()).min(lengths.len());
    let mut vectors: Vec<libc::iovec> = buffers[..count]
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = peers[..count]
        .iter_mut()
        .zip(&mut vectors)
        .map(|(peer, vector)| {
            let mut header = header(vector);
            header.msg_hdr.msg_name = ptr::from_mut(&mut peer.name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_control = peer.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = peer.control.0.len();
            header
        })
        .collect();
    // SAFETY: each header points to a buffer, a name and a control buffer of the lengths that it says, all of
    // which are borrowed for the call and used through nothing else.
    let done = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_WAITFORONE as _,
            ptr::null_mut(),
        )
    };
    let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
    for (index, header) in headers[..done].iter().enumerate() {
        peers[index].name_bytes = header.msg_hdr.msg_namelen;
        peers[index].control_bytes = header.msg_hdr.msg_controllen.min(peers[index].control.0.len());
        let is_whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        lengths[index] = if is_whole { header.msg_len as usize } else { 0 };
    }
    Ok(done)
}

/// Sends each answer to its peer, from the address that the peer has asked at. How many the kernel took
/// before it had something against one.
pub(crate) fn answer(socket: BorrowedFd<'_>, answers: &[(&Peer, &[u8])]) -> io::Result<usize> {
    let mut peers: Vec<Peer> = answers.iter().map(|(peer, _)| **peer).collect();
    let mut vectors: Vec<libc::iovec> = answers
        .iter()
        .map(|(_, bytes)| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = peers
        .iter_mut()
        .zip(&mut vectors)
        .map(|(peer, vector)| {
            peer.turn();
            let mut header = header(vector);
            header.msg_hdr.msg_name = ptr::from_mut(&mut peer.name).cast();
            header.msg_hdr.msg_namelen = peer.name_bytes;
            if peer.control_bytes > 0 {
                header.msg_hdr.msg_control = peer.control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = peer.control_bytes;
            }
            header
        })
        .collect();
    // SAFETY: each header points to bytes, a name and a control message that live across the call; sending
    // only reads them.
    let done =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, 0) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn header(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a header of zeros points nowhere and says that there is nothing.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Descriptors that one message may carry.
pub(crate) const MAX_DESCRIPTORS: usize = 32;

/// Room for so many descriptors.
#[repr(C, align(8))]
struct Passing([u8; 32 + MAX_DESCRIPTORS * 4]);

/// Sends `bytes` and with them the descriptors.
pub(crate) fn pass(socket: BorrowedFd<'_>, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if passed.is_empty() || passed.len() > MAX_DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut room = Passing([0; 32 + MAX_DESCRIPTORS * 4]);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = header(&mut vector).msg_hdr;
    let data_bytes = (passed.len() * size_of::<i32>()) as u32;
    header.msg_control = room.0.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(data_bytes) } as usize;
    // SAFETY: the room holds one control message of this length, so its header and its data lie in it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        (*message).cmsg_level = libc::SOL_SOCKET;
        (*message).cmsg_type = libc::SCM_RIGHTS;
        (*message).cmsg_len = libc::CMSG_LEN(data_bytes) as usize;
        let data = libc::CMSG_DATA(message).cast::<i32>();
        for (index, fd) in passed.iter().enumerate() {
            data.add(index).write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: the header's pointers are valid for the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives bytes and the descriptors that came with them, which are closed on exec.
pub(crate) fn take(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = Passing([0; 32 + MAX_DESCRIPTORS * 4]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = header(&mut vector).msg_hdr;
    header.msg_control = room.0.as_mut_ptr().cast();
    header.msg_controllen = room.0.len();
    // SAFETY: the header points to a buffer and to room of the lengths that it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut taken = Vec::new();
    // SAFETY: the kernel wrote whole control messages into the room; each is looked at within its own length.
    // The descriptors in it are new and nobody else's.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*message).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<i32>();
                let data = libc::CMSG_DATA(message).cast::<i32>();
                taken.extend((0..count).map(|at| OwnedFd::from_raw_fd(data.add(at).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Ok((got, taken))
}
