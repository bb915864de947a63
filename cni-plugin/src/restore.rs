//! For the agent: pods' entries in tables that were made anew, from the records of what pods have.

use std::{io, net::IpAddr, path::Path, time::SystemTime};

use crate::{
    conf::parse_mac,
    datapath::{Datapath, DatapathError, Entry},
    state::{Record, StateError, Store},
};

/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("look through what the CNI plugin has written down")]
    State(#[from] StateError),
    #[error("write pods' entries")]
    Datapath(#[from] DatapathError),
}

/// What [`restore`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Attachments whose entries were not in the tables.
    pub attachments: usize,
    /// Those whose records can't be read, with the reason.
    pub unreadable: Vec<String>,
}

/// The records of this boot, whoever works on them, and what is no record. Nothing where the plugin was never
/// called.
///
/// # Errors
/// The folder can't be read.
pub fn records(state_dir: &Path) -> Result<(Vec<Record>, Vec<String>), StateError> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let Some(store) = Store::existing(state_dir, BOOT_ID.as_ref())? else { return Ok((found, unreadable)) };
    for key in store.keys()? {
        match store.peek(&key) {
            Ok(Some(record)) => found.push(record),
            Ok(None) => unreadable.push(key),
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unreadable.push(format!("{key}: {error}")),
        }
    }
    Ok((found, unreadable))
}

/// When the plugin gave this address to the pod that has it; `None`: nobody has it, as far as can be read.
pub fn given_at(state_dir: &Path, address: IpAddr) -> Option<SystemTime> {
    Store::existing(state_dir, BOOT_ID.as_ref()).ok()??.given_at(address)
}

/// Writes what the tables below `pin_root` lack of the attachments whose devices are there. One that a call
/// is at work on is left to that call; an address that another has by now is that one's. To be called in the
/// node's network namespace.
///
/// # Errors
/// The tables or the folder can't be read or written.
pub fn restore(pin_root: &Path, state_dir: &Path) -> Result<Restored, RestoreError> {
    let mut restored = Restored::default();
    let Some(store) = Store::existing(state_dir, BOOT_ID.as_ref())? else { return Ok(restored) };
    let datapath = Datapath::open(pin_root)?;
    for key in store.keys()? {
        // Held until the entries are written: a DEL comes before or after.
        let claim = match store.find_idle(&key) {
            Ok(Some(claim)) => claim,
            Ok(None) => continue,
            Err(error) => {
                restored.unreadable.push(format!("{key}: {error}"));
                continue;
            }
        };
        let Some(record) = &claim.record else {
            restored.unreadable.push(key);
            continue;
        };
        let Some(entry) = entry(&store, &key, record) else { continue };
        if !datapath.missing(&entry, &record.host_ifname)?.is_empty() {
            datapath.publish(&entry)?;
            restored.attachments += 1;
        }
    }
    Ok(restored)
}

/// `None`: its device is gone, or not ready yet.
fn entry(store: &Store, key: &str, record: &Record) -> Option<Entry> {
    let ifindex = skerry_kernel::ifindex(&record.host_ifname).ok()?;
    // Without a number the ADD never got as far as the tables.
    if record.host_ifindex != ifindex {
        return None;
    }
    let addresses = record.addresses.iter().copied().filter(|address| store.allows(key, *address)).collect();
    Some(Entry { ifindex, mac: parse_mac(&record.mac)?, addresses, left_out: record.left_out })
}
