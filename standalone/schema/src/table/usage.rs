//! Rows of the metrics API.

use serde_json::{Value, json};
use skerry_vocabulary::Quantity;

use super::objects::View;

/// A pod's containers are summed up.
pub fn cells(o: &View) -> Vec<Value> {
    let containers = o.at("/containers").as_array();
    let usages: Vec<&Value> = match containers {
        Some(containers) => containers.iter().map(|container| &container["usage"]).collect(),
        None => vec![o.at("/usage")],
    };
    let sum = |resource: &str| {
        let amounts = usages.iter().filter_map(|usage| Quantity::parse(usage[resource].as_str()?).ok());
        amounts.reduce(|sum, amount| sum + amount).map(Quantity::canonical).unwrap_or_default()
    };
    vec![o.name(), json!(sum("cpu")), json!(sum("memory")), json!(o.text("/window"))]
}
