//! proxy-datapath
