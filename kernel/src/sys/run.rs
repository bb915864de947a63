//! Runs of a program over made-up packets.

use std::{io, os::fd::BorrowedFd};

use bytemuck::{Pod, Zeroable};

use super::{Command, bpf, raw};

/// `struct { … } test` of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
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

/// The answer, and nanoseconds that a run took on average. The packet as it was left goes to `output`, whose
/// length is then how much of it there is.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    output: &mut Vec<u8>,
    repeat: u32,
) -> io::Result<(u32, u32)> {
    let mut attribute = TestRun {
        data_size_out: output.len() as u32,
        data_out: if output.is_empty() { 0 } else { output.as_mut_ptr() as u64 },
        ..asked(program, packet, context, repeat)
    };
    // SAFETY: packet and context are read, at most `data_size_out` bytes of the output are written; all live
    // across the call.
    unsafe { bpf(Command::TestRun, &mut attribute) }?;
    output.truncate(attribute.data_size_out as usize);
    Ok((attribute.answer, attribute.duration))
}

/// `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18): the frames go where the program's answers say.
const LIVE_FRAMES: u32 = 1 << 1;

pub(crate) fn live_frames(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    count: u32,
    batch: u32,
) -> io::Result<()> {
    let mut attribute =
        TestRun { flags: LIVE_FRAMES, batch_size: batch, ..asked(program, packet, context, count) };
    // SAFETY: packet and context are read and live across the call; nothing is written but the attribute.
    unsafe { bpf(Command::TestRun, &mut attribute) }.map(drop)
}

fn asked(program: BorrowedFd<'_>, packet: &[u8], context: &[u8], repeat: u32) -> TestRun {
    TestRun {
        program: raw(program),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        context_size_in: context.len() as u32,
        context_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestRun::zeroed()
    }
}
