//! skerry-tests
