//! The node agent on a real containerd, inside a lab's node, told by our own API server.

mod asks;
mod faults;
mod last_words;
mod log_rotation;
mod pods;
mod restarts;
mod streams;
mod support;
mod web_sockets;
