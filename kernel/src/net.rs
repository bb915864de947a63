use crate::{Error, sys};

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
