use proxy_maps::{PinnedTables, Tables, last_service_id};
use proxy_state::Dump;
use skerry_kernel::Error;

use crate::programs::pins::Pins;

/// What an agent finds in the maps when it starts.
pub(crate) struct Inherited {
    pub tables: PinnedTables,
    pub dump: Dump,
    /// Numbers of services that connections may know.
    pub ids_until: u32,
}

impl Inherited {
    /// `are_fresh`: nothing is in them, and looking through all their elements would tell no more.
    pub fn read(pins: &Pins, are_fresh: bool) -> Result<Inherited, Error> {
        let mut tables = PinnedTables::open(&pins.maps())?;
        if are_fresh {
            return Ok(Inherited { tables, dump: Dump::default(), ids_until: 0 });
        }
        Ok(Inherited { dump: tables.dump()?, ids_until: last_service_id(&pins.maps())?, tables })
    }
}
