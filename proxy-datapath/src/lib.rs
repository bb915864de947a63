//! The datapath as pure code: parse, look up, select, track, rewrite, verdict.
#![no_std]
#![forbid(unsafe_code)]
