//! The cgroup hooks. They can be preempted, so they work on the stack only.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use proxy_abi::{Addr, Be16};
use proxy_datapath::{Socket, SocketVerdict, sock_connect, sock_peername, sock_recvmsg, sock_sendmsg};

use crate::tables::Kernel;

const ECONNREFUSED: i32 = 111;
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// The address of a call on an IPv4 socket.
struct V4<'a>(&'a SockAddrContext);
/// The address of a call on an IPv6 socket, which may be a mapped IPv4 one.
struct V6<'a>(&'a SockAddrContext);

impl Socket for V4<'_> {
    #[inline(always)]
    fn address(&self) -> (Addr, Be16) {
        // SAFETY: the context is valid for the whole run; both fields are in network byte order.
        let (ip, port) = unsafe { ((*self.0.sock_addr).user_ip4, (*self.0.sock_addr).user_port) };
        (Addr::from_v4_raw(ip), Be16::from_raw(port as u16))
    }

    #[inline(always)]
    fn set_address(&mut self, addr: &Addr, port: Be16) {
        // SAFETY: as above; these hooks may write both.
        unsafe {
            (*self.0.sock_addr).user_ip4 = addr.v4_raw();
            (*self.0.sock_addr).user_port = port.raw() as u32;
        }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        protocol(self.0)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        netns_cookie(self.0)
    }
}

impl Socket for V6<'_> {
    #[inline(always)]
    fn address(&self) -> (Addr, Be16) {
        // SAFETY: the context is valid for the whole run; all fields are in network byte order.
        unsafe {
            let address = self.0.sock_addr;
            let words = [
                core::ptr::read_volatile(&raw const (*address).user_ip6[0]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[1]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[2]),
                core::ptr::read_volatile(&raw const (*address).user_ip6[3]),
            ];
            (Addr(words), Be16::from_raw((*address).user_port as u16))
        }
    }

    #[inline(always)]
    fn set_address(&mut self, addr: &Addr, port: Be16) {
        // SAFETY: as above; these hooks may write all of them. Volatile: the verifier takes words, the
        // compiler would join two of them.
        unsafe {
            let address = self.0.sock_addr;
            core::ptr::write_volatile(&raw mut (*address).user_ip6[0], addr.0[0]);
            core::ptr::write_volatile(&raw mut (*address).user_ip6[1], addr.0[1]);
            core::ptr::write_volatile(&raw mut (*address).user_ip6[2], addr.0[2]);
            core::ptr::write_volatile(&raw mut (*address).user_ip6[3], addr.0[3]);
            (*address).user_port = port.raw() as u32;
        }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        protocol(self.0)
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        cookie(self.0)
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        netns_cookie(self.0)
    }
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: the context is valid for the whole run.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid for the whole run.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid for the whole run.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn answer(verdict: SocketVerdict) -> i32 {
    match verdict {
        SocketVerdict::Allow => ALLOW,
        SocketVerdict::Refuse => {
            // SAFETY: a plain number.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
    }
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    answer(sock_connect(&mut V4(&ctx), &Kernel))
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    answer(sock_connect(&mut V6(&ctx), &Kernel))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    answer(sock_sendmsg(&mut V4(&ctx), &Kernel))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    answer(sock_sendmsg(&mut V6(&ctx), &Kernel))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock_recvmsg(&mut V4(&ctx), &Kernel);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock_recvmsg(&mut V6(&ctx), &Kernel);
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_peername4(ctx: SockAddrContext) -> i32 {
    sock_peername(&mut V4(&ctx), &Kernel);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_peername6(ctx: SockAddrContext) -> i32 {
    sock_peername(&mut V6(&ctx), &Kernel);
    ALLOW
}
