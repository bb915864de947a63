//! Compiles the kernel programs (`proxy-ebpf`) for `bpfel-unknown-none`, once for everyone who embeds or
//! loads them.
//!
//! A build script calls [`build`] and [`watch`], and embeds what [`slim`] leaves; `xtask` and CI call [`build`] and [`check_no_panics`].

mod build;
mod slim;
mod symbols;
mod toolchain;

pub use build::{BuildError, build, build_by, watch};
pub use slim::{SlimError, slim};
pub use symbols::{SymbolError, check_no_panics, symbols};
pub use toolchain::{NoToolchain, Toolchain};
