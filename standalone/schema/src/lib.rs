//! skerry-schema
