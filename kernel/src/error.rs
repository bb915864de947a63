use std::io;

/// What went wrong in the kernel, by operation and object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call said no.
    #[error("{operation} {object}")]
    System { operation: &'static str, object: String, source: io::Error },
    /// A map's keys or values have another size than the type that should describe them.
    #[error(
        "map {map}: {part} is {found} bytes and not {expected}: another version made it; restart the agent so that it is made anew"
    )]
    Layout { map: String, part: &'static str, found: u32, expected: usize },
    /// A per-CPU map opened as a plain one, or the other way round.
    #[error("map {map} {} a per-CPU map: open it as {}", if *per_cpu { "is" } else { "is not" }, if *per_cpu { "PerCpuMap" } else { "Map" })]
    Kind { map: String, per_cpu: bool },
    /// A batch stopped half-way: the first `done` elements are in.
    #[error("{operation} {object}: stopped after {done} of {total}")]
    Batch { operation: &'static str, object: String, done: usize, total: usize, source: io::Error },
    /// Keys and values of a batch differ in number.
    #[error("update map {map} by batch: {keys} keys and {values} values")]
    Uneven { map: String, keys: usize, values: usize },
    /// A path holds a NUL byte.
    #[error("path {path:?} holds a zero byte")]
    Path { path: String },
    /// The walk over a map met more keys than it can hold: others write faster than we read.
    #[error("walk map {map}: more than {bound} steps; it changes too fast, try again")]
    Restless { map: String, bound: usize },
    /// `/sys/devices/system/cpu/possible` is not what it should be.
    #[error("read the list of possible CPUs: {text:?} is no list of ranges")]
    Cpus { text: String },
}

impl Error {
    pub(crate) fn system(operation: &'static str, object: impl ToString, source: io::Error) -> Error {
        Error::System { operation, object: object.to_string(), source }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::System { source, .. } | Error::Batch { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// No such pin, map element, link, program or device (ENOENT, ENODEV, ENXIO).
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
    }

    /// It was there already (EEXIST).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The map is full (E2BIG; ENOSPC from a trie).
    pub fn is_full(&self) -> bool {
        matches!(self.errno(), Some(libc::E2BIG | libc::ENOSPC))
    }

    /// Somebody else holds it (EBUSY).
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// This kernel does not know the call, the attach type or the flag.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | ENOTSUPP))
    }
}

/// The kernel's own "not supported", which no C library names.
pub(crate) const ENOTSUPP: i32 = 524;
