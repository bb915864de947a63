//! skerry
fn main() {}
