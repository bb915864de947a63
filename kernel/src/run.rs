use crate::{Error, Program, sys::run};

/// What a run over a made-up packet gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// The program's return value.
    pub answer: u32,
    /// Nanoseconds a run, the mean of all.
    pub ns: u32,
    /// The packet as the last run left it; empty where no room was given for it.
    pub output: Vec<u8>,
}

impl Program {
    /// Runs the program `repeat` times over one packet (`BPF_PROG_TEST_RUN`), in the caller's network
    /// namespace. What a run changes in the packet is there for the next. `context`: a `__sk_buff` or an
    /// `xdp_md` in the kernel's layout, or nothing. `room`: bytes for the packet as it is left.
    pub fn test_run(&self, packet: &[u8], context: &[u8], repeat: u32, room: usize) -> Result<Ran, Error> {
        let mut output = vec![0; room];
        let (answer, ns) = run::test_run(self.fd(), packet, context, &mut output, repeat)
            .map_err(|source| Error::system("run program", self.name(), source))?;
        Ok(Ran { answer, ns, output })
    }

    /// Makes `count` frames out of one packet, `batch` at a time (1–256), and lets them go where this XDP
    /// program's answers say, as if they had come in by device `ifindex` of the caller's network namespace
    /// (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). Frames are used again without being made anew: the program
    /// writes what it wants them to hold.
    pub fn live_frames(&self, packet: &[u8], ifindex: u32, count: u32, batch: u32) -> Result<(), Error> {
        let context = xdp_context(ifindex, packet.len());
        run::live_frames(self.fd(), packet, &context, count, batch)
            .map_err(|source| Error::system("send frames by program", self.name(), source))
    }
}

/// A `struct xdp_md` (linux/bpf.h) of a packet of `length` bytes that came in by a device.
pub fn xdp_context(ifindex: u32, length: usize) -> [u8; 24] {
    const DATA_END: usize = 4;
    const INGRESS_IFINDEX: usize = 12;
    let mut context = [0; 24];
    context[DATA_END..DATA_END + 4].copy_from_slice(&(length as u32).to_ne_bytes());
    context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// A `struct __sk_buff` (linux/bpf.h) of a packet that came in by a device.
pub fn skb_context(ifindex: u32) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    let mut context = [0; 192];
    for offset in [INGRESS_IFINDEX, IFINDEX] {
        context[offset..offset + 4].copy_from_slice(&ifindex.to_ne_bytes());
    }
    context
}
