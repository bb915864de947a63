use crate::sys;

/// Freed memory goes back to the kernel from here on. Left alone, glibc raises its thresholds with the first
/// large block that is freed (mallopt(3), `M_MMAP_THRESHOLD`) and keeps what a list of ten thousand objects
/// took while it was read; and each thread that allocates beside others gets an arena of its own.
///
/// To be called before the first thread is started. Elsewhere than on glibc it does nothing.
pub fn return_freed_memory() {
    const THRESHOLD: i32 = 128 << 10;
    sys::set_malloc(&[
        (sys::MALLOC_TRIM_THRESHOLD, THRESHOLD),
        (sys::MALLOC_MMAP_THRESHOLD, THRESHOLD),
        (sys::MALLOC_ARENAS, 2),
    ]);
}

/// Gives back what lies free between blocks that live on: what [`return_freed_memory`] does at the end of the
/// heap only. Walks the whole heap (malloc_trim(3)): to be called once, after much was allocated and freed.
pub fn return_free_pages() {
    sys::trim_malloc();
}

/// As many open files as the system allows, for a process that serves many connections; the soft limit is
/// there for programs that call select(2). Returns how many.
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_open_files() -> std::io::Result<u64> {
    sys::raise_open_files()
}
