//! The ranges that ClusterIPs come from (KEP-1880).

use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use skerry_store::{Range, Store};

use super::strings;
use crate::{
    api::{self, Settings, built_in},
    error::ApiError,
    object,
};

/// The ServiceCIDR of the ranges that the server was started with.
pub const DEFAULT: &str = "kubernetes";

/// The object of this name, for [`crate::bootstrap`].
pub fn default_object(settings: &Settings) -> Value {
    let ranges: Vec<String> = settings.service_cidrs.iter().map(ToString::to_string).collect();
    json!({"metadata": {"name": DEFAULT}, "spec": {"cidrs": ranges}})
}

/// Those that the server was started with, then those of all other ServiceCIDRs by name. Without the ones
/// that are being deleted: Services keep their addresses there, and no new one gets any.
pub async fn ranges(store: &Arc<dyn Store>, settings: &Settings) -> Result<Vec<IpNetwork>, ApiError> {
    let kind = built_in("networking.k8s.io", "v1", "servicecidrs")?;
    let listing = store.list(Range { prefix: object::prefix(kind, ""), ..Range::default() }).await?;
    let (mut ranges, mut others) = (settings.service_cidrs.clone(), Vec::<IpNetwork>::new());
    for entry in &listing.entries {
        let cidr = api::parse(kind, entry)?;
        match (object::name(&cidr), object::is_being_deleted(&cidr)) {
            (DEFAULT, true) => ranges.clear(),
            (DEFAULT, false) | (_, true) => {}
            (_, false) => {
                others.extend(strings(&cidr, "/spec/cidrs").filter_map(|text| text.parse::<IpNetwork>().ok()))
            }
        }
    }
    ranges.extend(others.into_iter().filter(|range| !settings.service_cidrs.contains(range)));
    Ok(ranges)
}
