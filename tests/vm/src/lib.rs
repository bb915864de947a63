//! Cases that need what small kernels lack: SCTP sockets, `ipip` devices, mounts of NFS. `cargo xtask
//! vm-test` runs them under Debian's kernels; where the kernel that runs has these parts, `cargo xtask test`
//! does, too.

pub mod sctp;

use skerry_lab::{Netns, skipped};

/// Whether a test has to be left out because this kernel makes no device of a kind; says so where the test
/// runner reads.
pub fn lacks_device(test: &str, kind: &str) -> bool {
    let made = Netns::unique("kind").and_then(|netns| netns.ip(&format!("link add probe0 type {kind}")));
    lacks(test, &format!("{kind} devices"), made.is_ok())
}

/// The same of SCTP sockets.
pub fn lacks_sctp(test: &str) -> bool {
    lacks(test, "SCTP sockets", sctp::socket().is_ok())
}

/// Whether a test has to be left out because it takes the whole machine: it has one to itself in a guest of
/// `cargo xtask vm-test` only. `what` these have besides.
pub fn lacks_guest(test: &str, what: &str) -> bool {
    lacks(test, what, std::env::var_os("SKERRY_GUEST").is_some())
}

fn lacks(test: &str, what: &str, is_there: bool) -> bool {
    if !is_there {
        skipped(
            test,
            &format!("in a virtual machine only: this kernel has no {what} (`cargo xtask vm-test`)"),
        );
    }
    !is_there
}
