//! P15: the balancer alone (`skerry lb`): its packets per second as a share of a bare program's, and
//! connections through it beside those through HAProxy and nginx.

mod packets;
mod proxies;

use anyhow::Result;

use crate::{Options, row::Row};

/// # Errors
/// When the balancer or a peer does not start, or what is sent does not arrive.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut rows = packets::run(options)?;
    rows.extend(proxies::run(options)?);
    Ok(rows)
}
