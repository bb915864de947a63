//! DEL: undoes what there is, and goes on after a failure. Nothing of it needs the namespace, the agent or
//! its tables.

use std::net::IpAddr;

use skerry_vocabulary::chain;

use crate::{
    conf::{Conf, parse_mac},
    datapath::{Retraction, retract, spoken_for},
    failure::Failure,
    identity,
    netlink::Netlink,
    request::Attachment,
    state::{Claim, Store},
    veth,
};

pub fn del(conf: &Conf, request: &Attachment) -> Result<(), Failure> {
    let key = identity::key(&request.container_id, &request.ifname);
    let store = Store::existing(&conf.state_dir()?, &conf.boot_id_file()?)?;
    let claim = match &store {
        Some(store) => store.find(&key)?,
        None => None,
    };
    match (store, claim) {
        (Some(store), Some(claim)) => remove(conf, &store, &claim),
        (store, _) => remove_unknown(conf, store.as_ref(), request),
    }
}

/// Not added, deleted before, or the state was lost: what bears the container's name goes, unless it is the
/// device of another one that happens to have the same name.
fn remove_unknown(conf: &Conf, store: Option<&Store>, request: &Attachment) -> Result<(), Failure> {
    let device = identity::host_ifname(&request.container_id, &request.ifname);
    let keys = store.map_or(Ok(Vec::new()), Store::keys)?;
    if keys.iter().any(|key| host_ifname(key) == device) {
        return Ok(());
    }
    let ifindex = skerry_kernel::ifindex(&device).unwrap_or(0);
    let addresses = spoken_for(&conf.pin_root()?, ifindex);
    finish(remove_network(conf, &device, ifindex, None, (&addresses, 0))?)
}

fn host_ifname(key: &str) -> String {
    let (id, ifname) = key.split_once('@').unwrap_or((key, ""));
    identity::host_ifname(id, ifname)
}

/// Removes all of one attachment: tables, pins, devices, and only then its addresses and its record, so that
/// whoever gets an address next finds nothing of ours in its way.
pub fn remove(conf: &Conf, store: &Store, claim: &Claim) -> Result<(), Failure> {
    let device = host_ifname(&claim.key);
    let (ifindex, mac) = claim.record.as_ref().map_or((0, None), |r| (r.host_ifindex, parse_mac(&r.mac)));
    let addresses: Vec<IpAddr> = match &claim.record {
        Some(record) => record.addresses.clone(),
        None => store.taken()?.into_iter().collect(),
    };
    let own: Vec<IpAddr> = match &claim.record {
        Some(_) => addresses.into_iter().filter(|a| store.allows(&claim.key, *a)).collect(),
        None => addresses.into_iter().filter(|a| store.owns(&claim.key, *a)).collect(),
    };
    let left_out = claim.record.as_ref().map_or(0, |record| record.left_out);
    let mut errors = remove_network(conf, &device, ifindex, mac, (&own, left_out))?;
    // While the device is there an address must not go to another pod.
    if errors.is_empty() {
        errors.extend(store.release(claim).err().map(|e| chain(&e)));
    }
    finish(errors)
}

fn remove_network(
    conf: &Conf,
    device: &str,
    ifindex: u32,
    mac: Option<[u8; 6]>,
    (addresses, left_out): (&[IpAddr], u64),
) -> Result<Vec<String>, Failure> {
    let root = conf.pin_root()?;
    let now = skerry_kernel::ifindex(device).unwrap_or(0);
    let ifindex = if now != 0 { now } else { ifindex };
    let retraction = Retraction { device, ifindex, mac, addresses, left_out };
    let mut errors: Vec<String> = Vec::new();
    if now != 0 {
        errors.extend(delete_pair(device).err().map(|e| chain(&e)));
    }
    errors.extend(retract(&root, &retraction).iter().map(|e| chain(e)));
    Ok(errors)
}

fn delete_pair(device: &str) -> Result<(), Failure> {
    match Netlink::open()?.run(&[veth::delete(device)]) {
        // It went by itself meanwhile, with the pod's namespace.
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

fn finish(errors: Vec<String>) -> Result<(), Failure> {
    if errors.is_empty() { Ok(()) } else { Err(Failure::Cleanup { what: errors }) }
}
