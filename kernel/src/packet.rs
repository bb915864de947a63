use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use bytemuck::{Pod, Zeroable};

use crate::{Error, sys};

/// One instruction of the classic BPF machine (`struct sock_filter`), as socket filters are made of.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct ClassicInstruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl ClassicInstruction {
    /// The byte at `offset` of the frame.
    pub const fn load_byte(offset: u32) -> ClassicInstruction {
        ClassicInstruction::new(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset)
    }

    /// The two bytes at `offset` of the frame, most significant first.
    pub const fn load_half(offset: u32) -> ClassicInstruction {
        ClassicInstruction::new(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, offset)
    }

    /// The four bytes at `offset` of the frame, most significant first.
    pub const fn load_word(offset: u32) -> ClassicInstruction {
        ClassicInstruction::new(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
    }

    /// Skips `if_true` instructions if what was loaded is `value`, else `if_false`.
    pub const fn jump_equal(value: u32, if_true: u8, if_false: u8) -> ClassicInstruction {
        ClassicInstruction::new(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, if_true, if_false, value)
    }

    /// Lets the first `length` bytes of the frame through; 0: none of it.
    pub const fn accept(length: u32) -> ClassicInstruction {
        ClassicInstruction::new(libc::BPF_RET | libc::BPF_K, 0, 0, length)
    }

    const fn new(code: u32, if_true: u8, if_false: u8, operand: u32) -> ClassicInstruction {
        ClassicInstruction { code: code as u16, if_true, if_false, operand }
    }
}

/// Frames of one device and one EtherType, past the network stack: received beside the stack, sent below it.
/// Nothing of it is left when it is closed, also by a kill. Calls never block.
#[derive(Debug)]
pub struct PacketSocket(File);

/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: u16 = 1;

impl PacketSocket {
    /// Receives frames of `ether_type` that come in on `device` (its number) and that `filter` lets through.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, without such a device, or when the filter is no valid program (it has 4,096
    /// instructions at most).
    pub fn open(device: u32, ether_type: u16, filter: &[ClassicInstruction]) -> Result<PacketSocket, Error> {
        let failed = |operation| move |source| Error::system(operation, format!("device #{device}"), source);
        let socket = PacketSocket(sys::packet::open().map_err(failed("open a packet socket for"))?.into());
        // The filter first: nothing else is to wait in the socket.
        sys::packet::set_filter(socket.as_fd(), filter).map_err(failed("set the filter of"))?;
        sys::packet::bind(socket.as_fd(), device, ether_type).map_err(failed("bind a packet socket to"))?;
        Ok(socket)
    }

    /// Replaces the filter, from one frame to the next.
    ///
    /// # Errors
    /// As for [`PacketSocket::open`].
    pub fn set_filter(&self, filter: &[ClassicInstruction]) -> Result<(), Error> {
        sys::packet::set_filter(self.as_fd(), filter)
            .map_err(|source| Error::system("set the filter of", "a packet socket", source))
    }

    /// The Ethernet address that the device has now. `None`: it is no Ethernet device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mac(&self) -> Result<Option<[u8; 6]>, Error> {
        let asked = sys::packet::device_address(self.as_fd());
        let (kind, [a, b, c, d, e, f, ..]) = asked
            .map_err(|source| Error::system("ask for the address of", "a packet socket's device", source))?;
        Ok((kind == ETHERNET).then_some([a, b, c, d, e, f]))
    }

    /// The next frame, cut off where the filter or the buffer ends; its length.
    ///
    /// # Errors
    /// `WouldBlock` when none is there; ENETDOWN once after the device went down.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(frame)
    }

    /// Sends a frame with its Ethernet header.
    ///
    /// # Errors
    /// When the device is down or gone, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(drop)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
