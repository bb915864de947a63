//! skerry-controllers
