//! skerry-kernel
