//! Programs and maps: what is loaded, pinned and attached, and how the maps come to hold what is wanted.

pub(crate) mod attach;
pub(crate) mod capacity;
pub(crate) mod facts;
pub(crate) mod inherited;
pub(crate) mod load;
pub(crate) mod old_flows;
pub(crate) mod own_ports;
pub(crate) mod pins;
