//! The system calls. Every wrapper here is safe: it checks lengths before the kernel sees a pointer.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

pub(crate) mod datagram;
pub(crate) mod packet;
pub(crate) mod run;

/// `enum bpf_cmd` of `linux/bpf.h`.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    Pin = 6,
    Get = 7,
    TestRun = 10,
    ProgramFdById = 13,
    MapFdById = 14,
    InfoByFd = 15,
    ProgramQuery = 16,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkFdById = 30,
    LinkNextId = 31,
    LinkDetach = 34,
}

/// Attributes that hold no pointer: the kernel reads them and writes only into them.
pub(crate) trait Plain: Pod {}

macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Pod, Zeroable)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }
    };
}

attribute! { MapCreate {
    map_type: u32, key_size: u32, value_size: u32, max_entries: u32, flags: u32, inner_map_fd: u32, numa_node: u32,
    name: [u8; 16],
} }
attribute! { LinkCreate {
    program_fd: u32, target: u32, attach_type: u32, flags: u32, relative: u32, reserved: u32, expected_revision: u64,
} }
attribute! { LinkUpdate { link_fd: u32, new_program_fd: u32, flags: u32, old_program_fd: u32, } }
attribute! { LinkDetach { link_fd: u32, } }
attribute! {
    /// By id; `next_id` is written by the kernel.
    ById { id: u32, next_id: u32, open_flags: u32, }
}
impl Plain for MapCreate {}
impl Plain for LinkCreate {}
impl Plain for LinkUpdate {}
impl Plain for LinkDetach {}
impl Plain for ById {}

attribute! { Element { map_fd: u32, reserved: u32, key: u64, value: u64, flags: u64, } }
attribute! { Batch {
    in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, element_flags: u64, flags: u64,
} }
attribute! { Object { path: u64, fd: u32, file_flags: u32, } }
attribute! { InfoByFd { fd: u32, length: u32, info: u64, } }
attribute! { ProgramLoad {
    program_type: u32, count: u32, instructions: u64, license: u64, log_level: u32, log_size: u32, log: u64,
    kernel_version: u32, flags: u32, name: [u8; 16], ifindex: u32, expected_attach_type: u32,
} }
attribute! { ProgramQuery {
    target: u32, attach_type: u32, query_flags: u32, attach_flags: u32, program_ids: u64, count: u32, reserved: u32,
    program_attach_flags: u64, link_ids: u64, link_attach_flags: u64, revision: u64,
} }

/// # Safety
/// Every pointer in `attribute` must be valid for what `command` reads and writes behind it.
unsafe fn bpf<A: Pod>(command: Command, attribute: &mut A) -> io::Result<i32> {
    // SAFETY: the attribute is valid for its own size, reads and writes; its pointers are the caller's
    // promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i32, attribute as *mut A, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a fresh descriptor from the kernel that nobody else knows (bpf(2) sets close-on-exec itself).
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A command that gives back 0 and perhaps writes into its attribute.
pub(crate) fn plain<A: Plain>(command: Command, attribute: &mut A) -> io::Result<()> {
    // SAFETY: `Plain` attributes hold no pointer.
    unsafe { bpf(command, attribute) }.map(drop)
}

/// A command that gives back a new descriptor.
pub(crate) fn plain_fd<A: Plain>(command: Command, attribute: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: `Plain` attributes hold no pointer.
    unsafe { bpf(command, attribute) }.map(owned)
}

pub(crate) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attribute = Object { path: path.as_ptr() as u64, fd: raw(fd), file_flags: 0 };
    // SAFETY: the path is a NUL-terminated string that lives across the call.
    unsafe { bpf(Command::Pin, &mut attribute) }.map(drop)
}

pub(crate) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attribute = Object { path: path.as_ptr() as u64, fd: 0, file_flags: 0 };
    // SAFETY: the path is a NUL-terminated string that lives across the call.
    unsafe { bpf(Command::Get, &mut attribute) }.map(owned)
}

/// The first bytes of the kernel's info struct about a map, a program or a link. `I` must be zeroed where the
/// kernel would take a pointer from it (it is: `Zeroable::zeroed`).
pub(crate) fn info<I: Pod>(fd: BorrowedFd<'_>) -> io::Result<I> {
    let mut info = I::zeroed();
    let mut attribute = InfoByFd { fd: raw(fd), length: size_of::<I>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: the kernel writes at most `length` bytes, and finds zero pointers and zero lengths in it.
    unsafe { bpf(Command::InfoByFd, &mut attribute) }?;
    Ok(info)
}

pub(crate) fn load(
    program_type: u32,
    attach_type: u32,
    name: [u8; 16],
    instructions: &[[u8; 8]],
    license: &CStr,
) -> io::Result<OwnedFd> {
    let mut attribute = ProgramLoad {
        program_type,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name,
        expected_attach_type: attach_type,
        ..Zeroable::zeroed()
    };
    // SAFETY: `count` instructions of eight bytes and a NUL-terminated licence, both alive across the call;
    // no log.
    unsafe { bpf(Command::ProgramLoad, &mut attribute) }.map(owned)
}

/// Program ids and (where the hook knows them) link ids, and how many there are.
pub(crate) fn query(
    target: u32,
    attach_type: u32,
    programs: &mut [u32],
    links: Option<&mut [u32]>,
) -> io::Result<usize> {
    let links = match links {
        Some(links) => {
            assert!(links.len() >= programs.len(), "room for as many links as programs");
            links.as_mut_ptr() as u64
        }
        None => 0,
    };
    let mut attribute = ProgramQuery {
        target,
        attach_type,
        program_ids: programs.as_mut_ptr() as u64,
        link_ids: links,
        count: programs.len() as u32,
        ..Zeroable::zeroed()
    };
    // SAFETY: the kernel writes at most `count` ids into each array.
    unsafe { bpf(Command::ProgramQuery, &mut attribute) }?;
    Ok(attribute.count as usize)
}

/// A map's descriptor with the sizes that the kernel will read and write: checked against every slice below.
#[derive(Debug)]
pub(crate) struct RawMap {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl RawMap {
    /// `value_size` is what one look-up writes: for per-CPU maps the values of all possible CPUs. The caller
    /// has asked the kernel for both.
    pub(crate) fn new(fd: OwnedFd, key_size: usize, value_size: usize) -> RawMap {
        RawMap { fd, key_size, value_size }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Element {
        assert_eq!(key.len(), self.key_size, "key size");
        Element { map_fd: raw(self.fd()), reserved: 0, key: key.as_ptr() as u64, value, flags }
    }

    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "value size");
        let mut attribute = self.element(key, value.as_mut_ptr() as u64, 0);
        // SAFETY: both sizes are the map's; the key is read, the value written.
        unsafe { bpf(Command::MapLookup, &mut attribute) }.map(drop)
    }

    pub(crate) fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "value size");
        let mut attribute = self.element(key, value.as_ptr() as u64, flags);
        // SAFETY: both sizes are the map's; key and value are read.
        unsafe { bpf(Command::MapUpdate, &mut attribute) }.map(drop)
    }

    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<()> {
        let mut attribute = self.element(key, 0, 0);
        // SAFETY: the key has the map's size and is read.
        unsafe { bpf(Command::MapDelete, &mut attribute) }.map(drop)
    }

    /// The key after `key` (the first one for `None`) into `next`.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
        assert_eq!(next.len(), self.key_size, "key size");
        let key = key.map_or(0, |key| {
            assert_eq!(key.len(), self.key_size, "key size");
            key.as_ptr() as u64
        });
        let mut attribute =
            Element { map_fd: raw(self.fd()), reserved: 0, key, value: next.as_mut_ptr() as u64, flags: 0 };
        // SAFETY: the key is absent or has the map's size; the next key, of the same size, is written.
        unsafe { bpf(Command::MapNextKey, &mut attribute) }.map(drop)
    }

    /// Returns how many elements were written, beside the error if it stopped early.
    pub(crate) fn update_batch(
        &self,
        keys: &[u8],
        values: &[u8],
        count: usize,
        flags: u64,
    ) -> (usize, io::Result<()>) {
        assert_eq!(keys.len(), self.key_size * count, "keys");
        assert_eq!(values.len(), self.value_size * count, "values");
        let mut attribute = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: count as u32,
            map_fd: raw(self.fd()),
            element_flags: flags,
            ..Zeroable::zeroed()
        };
        // SAFETY: `count` keys and values of the map's sizes are read.
        let result = unsafe { bpf(Command::MapUpdateBatch, &mut attribute) }.map(drop);
        counted(result, attribute.count, count)
    }

    /// As [`RawMap::update_batch`], for deletions.
    pub(crate) fn delete_batch(&self, keys: &[u8], count: usize) -> (usize, io::Result<()>) {
        assert_eq!(keys.len(), self.key_size * count, "keys");
        let mut attribute = Batch {
            keys: keys.as_ptr() as u64,
            count: count as u32,
            map_fd: raw(self.fd()),
            ..Zeroable::zeroed()
        };
        // SAFETY: `count` keys of the map's size are read.
        let result = unsafe { bpf(Command::MapDeleteBatch, &mut attribute) }.map(drop);
        counted(result, attribute.count, count)
    }

    /// Room for the kernel's place mark: a bucket number (four bytes) or a key.
    pub(crate) fn place(&self) -> Vec<u8> {
        vec![0; self.key_size.max(4)]
    }

    /// Reads up to `count` elements from `from` on (`None`: the beginning) and leaves the mark to go on from
    /// in `next`. The number read counts with ENOENT (the end) as well.
    pub(crate) fn lookup_batch(
        &self,
        from: Option<&[u8]>,
        next: &mut [u8],
        keys: &mut [u8],
        values: &mut [u8],
        count: usize,
    ) -> (usize, io::Result<()>) {
        let mark = self.key_size.max(4);
        assert!(next.len() >= mark && from.is_none_or(|from| from.len() >= mark), "place mark");
        assert_eq!(keys.len(), self.key_size * count, "keys");
        assert_eq!(values.len(), self.value_size * count, "values");
        let mut attribute = Batch {
            in_batch: from.map_or(0, |from| from.as_ptr() as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map_fd: raw(self.fd()),
            ..Zeroable::zeroed()
        };
        // SAFETY: the kernel writes at most `count` keys and values and one place mark, which is a u32 or a
        // key.
        let result = unsafe { bpf(Command::MapLookupBatch, &mut attribute) }.map(drop);
        (attribute.count as usize, result)
    }
}

/// The kernel writes the count back only when it got as far as an element; before that it still is what was
/// asked.
fn counted(result: io::Result<()>, written: u32, asked: usize) -> (usize, io::Result<()>) {
    let done = match &result {
        Err(_) if written as usize >= asked => 0,
        _ => written as usize,
    };
    (done, result)
}

/// The `f_type` of the file system that `path` is on (`statfs(2)`).
pub(crate) fn filesystem_type(path: &Path) -> io::Result<i64> {
    let path = c_path(path)?;
    // SAFETY: all zeroes is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a struct of the right type.
    match unsafe { libc::statfs(path.as_ptr(), &mut stat) } {
        // The type of the field differs between C libraries.
        0 => Ok(stat.f_type as i64),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn mount(kind: &CStr, path: &Path, flags: u64, options: &CStr) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: four NUL-terminated strings that live across the call; both file systems take a string of
    // options.
    let result =
        unsafe { libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a NUL-terminated path.
    let result = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 { Err(io::Error::last_os_error()) } else { Ok(owned(socket)) }
}

/// A route-netlink socket: what is written goes to the kernel, each read gives one datagram of its answers.
pub(crate) fn netlink() -> io::Result<std::fs::File> {
    Ok(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?.into())
}

/// `SO_NETNS_COOKIE` (Linux 5.14), which not every libc names.
const SO_NETNS_COOKIE: i32 = 71;

pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: eight bytes for an eight-byte option.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// RFC 5014 section 5: an IPv6 socket speaks from lasting addresses rather than from temporary ones.
pub(crate) fn prefer_lasting(socket: BorrowedFd<'_>) -> io::Result<()> {
    const IPV6_ADDR_PREFERENCES: libc::c_int = 72;
    // IPV6_PREFER_SRC_PUBLIC
    let public: libc::c_int = 2;
    // SAFETY: a whole number for an option that is one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            IPV6_ADDR_PREFERENCES,
            (&raw const public).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread, and only it, into a network namespace.
pub(crate) fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn if_nametoindex(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a NUL-terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

pub(crate) fn if_indextoname(index: u32) -> io::Result<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function asks for.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// `malloc.h` of glibc.
pub(crate) const MALLOC_TRIM_THRESHOLD: i32 = -1;
pub(crate) const MALLOC_MMAP_THRESHOLD: i32 = -3;
pub(crate) const MALLOC_ARENAS: i32 = -8;

/// mallopt(3), where the C library has it.
pub(crate) fn set_malloc(settings: &[(i32, i32)]) {
    #[cfg(target_env = "gnu")]
    for (name, value) in settings {
        // SAFETY: plain numbers; what the library does not know it refuses.
        unsafe { libc::mallopt(*name, *value) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = settings;
}

/// malloc_trim(3), where the C library has it.
pub(crate) fn trim_malloc() {
    // SAFETY: takes a number and touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The soft limit of open files becomes the hard one (getrlimit(2)). Returns it.
pub(crate) fn raise_open_files() -> std::io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit` to where there is one.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit` from where there is one.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
