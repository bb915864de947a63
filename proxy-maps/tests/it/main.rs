//! The real maps, filled and read from userspace. Needs root and a BPF file system.

mod flows;
mod scene;
mod tables;
