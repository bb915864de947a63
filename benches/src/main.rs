//! skerry-benches
fn main() {}
