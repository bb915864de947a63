//! The kernel programs: contexts become the datapath's traits, its verdicts become calls of helpers.
#![no_std]
#![no_main]
// One masked offset in `xdp`; `ebpf-build` sets RUSTC_BOOTSTRAP, as aya-ebpf needs it too.
#![feature(asm_experimental_arch)]

mod fib;
mod maps;
mod skb;
mod sock;
mod steps;
mod tables;
mod tc;
mod xdp;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Unreachable: `ebpf_build::check_no_panics` refuses an object that kept a path to here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
