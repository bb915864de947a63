//! skerry-kubelet
