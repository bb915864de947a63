//! skerry-scheduler
