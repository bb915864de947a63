//! skerry-apiserver
