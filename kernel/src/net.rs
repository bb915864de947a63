use std::{
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use crate::{Error, sys};

/// Runs `f` on a thread of its own inside a network namespace; sockets it makes stay there. The calling
/// thread never leaves its own namespace, whatever goes wrong. `name` is for the error text.
pub fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    name: &str,
    f: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                sys::enter_netns(netns).map_err(|e| Error::system("enter network namespace", name, e))?;
                Ok(f())
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The running kernel's release, e.g. `6.12.30-amd64`.
pub fn kernel_release() -> Result<String, Error> {
    const PATH: &str = "/proc/sys/kernel/osrelease";
    match std::fs::read_to_string(PATH) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) => Err(Error::system("read", PATH, e)),
    }
}

/// `SO_NETNS_COOKIE` (Linux 5.14) of the calling thread's network namespace: unique since boot.
pub fn netns_cookie() -> Result<u64, Error> {
    sys::netns_cookie().map_err(|e| Error::system("ask for the cookie of", "the network namespace", e))
}

/// The number of a device of the calling thread's network namespace.
pub fn ifindex(name: &str) -> Result<u32, Error> {
    sys::if_nametoindex(name).map_err(|e| Error::system("find device", name, e))
}

/// The name of a device of the calling thread's network namespace.
pub fn ifname(index: u32) -> Result<String, Error> {
    sys::if_indextoname(index).map_err(|e| Error::system("find device with number", index, e))
}

/// The address of a family that the machine speaks from towards the outside, by its routes at the moment.
/// `None`: there is no way out. Nothing is sent.
pub fn source_towards_outside(is_v4: bool) -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): connect only asks the routing table.
    let (any, outside) = if is_v4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    if !is_v4 {
        sys::prefer_lasting(socket.as_fd()).ok()?;
    }
    socket.connect(outside).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
