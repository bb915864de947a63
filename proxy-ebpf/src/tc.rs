use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

#[classifier]
pub fn from_pod(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
#[classifier]
pub fn to_pod(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
#[classifier]
pub fn from_overlay(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
#[classifier]
pub fn to_overlay(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
#[classifier]
pub fn from_uplink(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
#[classifier]
pub fn to_uplink(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
