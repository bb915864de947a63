//! STATUS: whether an ADD would work now. GC: away with what the runtime does not know any more.

use std::collections::HashSet;

use rscni_types::error::Error as CniError;
use skerry_vocabulary::chain;

use crate::{conf::Conf, datapath::Datapath, del, failure::Failure, identity, state::Store};

pub fn status(conf: &Conf) -> Result<(), Failure> {
    let not_ready = |failure: Failure| CniError::PluginNotAvailable(chain(&failure));
    let ranges = conf.ranges()?;
    Datapath::open(&conf.pin_root()?).map_err(|e| not_ready(e.into()))?;
    if let Some(store) = Store::existing(&conf.state_dir()?, &conf.boot_id_file()?)? {
        store.probe(&ranges).map_err(|e| not_ready(e.into()))?;
    }
    Ok(())
}

/// Attachments of this network that the runtime does not list go; those that a call is at work on stay.
pub fn gc(conf: &Conf) -> Result<(), Failure> {
    let network = conf.name()?;
    let Some(valid) = conf.valid_attachments()? else { return Ok(()) };
    let valid: HashSet<String> = valid.iter().map(|a| identity::key(&a.container_id, &a.ifname)).collect();
    let Some(store) = Store::existing(&conf.state_dir()?, &conf.boot_id_file()?)? else { return Ok(()) };
    let mut errors = Vec::new();
    for key in store.keys()?.into_iter().filter(|key| !valid.contains(key)) {
        let claim = match store.find_idle(&key) {
            Ok(Some(claim)) => claim,
            Ok(None) => continue,
            // It costs the others nothing.
            Err(error) => {
                errors.push(chain(&error));
                continue;
            }
        };
        if claim.record.as_ref().is_none_or(|record| record.network == network) {
            errors.extend(del::remove(conf, &store, &claim).err().map(|e| chain(&e)));
        }
    }
    errors.extend(store.free_orphans().err().map(|e| chain(&e)));
    if errors.is_empty() { Ok(()) } else { Err(Failure::Cleanup { what: errors }) }
}
