//! Where on a device an XDP program runs.

use std::os::fd::BorrowedFd;

use crate::{
    Error, Link, XdpMode,
    netlink::{Batch, find},
};

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const ATTACHED_NATIVE: u8 = 1;
const ATTACHED_GENERIC: u8 = 2;

/// Which modes will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpChoice {
    /// In the driver.
    Native,
    /// Behind the driver: every device has it.
    Generic,
    /// In the driver where it can, else behind it.
    Auto,
}

impl XdpChoice {
    pub fn allows(self, mode: XdpMode) -> bool {
        match self {
            XdpChoice::Native => mode == XdpMode::Native,
            XdpChoice::Generic => mode == XdpMode::Generic,
            XdpChoice::Auto => true,
        }
    }

    /// Attaches the program; also returns the mode that it got.
    ///
    /// # Errors
    /// [`Error::is_busy`] where another's program is.
    pub fn attach(self, program: BorrowedFd<'_>, ifindex: u32) -> Result<(Link, XdpMode), Error> {
        let attach = |mode| Link::attach_xdp(program, ifindex, mode).map(|link| (link, mode));
        match self {
            XdpChoice::Native => attach(XdpMode::Native),
            XdpChoice::Generic => attach(XdpMode::Generic),
            XdpChoice::Auto => attach(XdpMode::Native).or_else(|error| match error.is_busy() {
                true => Err(error),
                false => attach(XdpMode::Generic),
            }),
        }
    }
}

/// Where the XDP program of a device of the caller's network namespace runs; `None`: it has none, or one in
/// its hardware.
pub fn xdp_mode(ifindex: u32) -> Result<Option<XdpMode>, Error> {
    let mut batch = Batch::default();
    batch.message(RTM_GETLINK, 0, &[ifindex, 0, 0], |_| {});
    let failed = |e| Error::system("ask about", format!("device {ifindex}"), e);
    let answer = batch.run().map_err(failed)?.swap_remove(0);
    answer.result.map_err(failed)?;
    let attached = answer.body.as_deref().and_then(|body| {
        let xdp = find(body.get(IFINFOMSG..)?, IFLA_XDP)?;
        find(xdp, IFLA_XDP_ATTACHED)?.first().copied()
    });
    Ok(match attached {
        Some(ATTACHED_NATIVE) => Some(XdpMode::Native),
        Some(ATTACHED_GENERIC) => Some(XdpMode::Generic),
        _ => None,
    })
}
