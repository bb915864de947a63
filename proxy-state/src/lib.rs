//! proxy-state
