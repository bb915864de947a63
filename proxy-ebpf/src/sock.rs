use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(getpeername4)]
pub fn sock_peername4(_ctx: SockAddrContext) -> i32 {
    1
}
#[cgroup_sock_addr(getpeername6)]
pub fn sock_peername6(_ctx: SockAddrContext) -> i32 {
    1
}
