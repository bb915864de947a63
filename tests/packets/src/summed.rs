//! `BPF_PROG_TEST_RUN` over a packet that the device has summed up (CHECKSUM_COMPLETE), which aya cannot ask
//! for.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Linux 6.16: the kernel sums the packet up before the program runs and compares afterwards; EBADMSG where
/// the sum that it was kept at is not that of the packet.
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// `struct { … } test` of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    answer: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// Runs a tc program once over a packet; its answer.
///
/// # Errors
/// EBADMSG where the packet and its sum went apart; EINVAL from kernels before 6.16.
pub fn run(program: BorrowedFd<'_>, context: &[u8], packet: &[u8]) -> io::Result<i32> {
    let mut attribute = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        context_size_in: context.len() as u32,
        context_in: context.as_ptr() as u64,
        flags: BPF_F_TEST_SKB_CHECKSUM_COMPLETE,
        ..TestRun::default()
    };
    // SAFETY: the attribute has the kernel's layout and lives through the call, as the two buffers do, whose
    // lengths it names; nothing is written but its own fields.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attribute, size_of::<TestRun>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attribute.answer as i32) }
}
