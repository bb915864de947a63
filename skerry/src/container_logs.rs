//! How much of its containers' logs a node keeps.

use clap::Args;
use serde::{Deserialize, Serialize};
use skerry_kubelet::LogLimits;
use skerry_vocabulary::Quantity;

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ContainerLogs {
    /// The size at which a container's log is turned over, a quantity of bytes; a negative one: never
    #[arg(long, default_value = "10Mi", allow_negative_numbers = true, value_parser = size)]
    pub container_log_max_size: String,
    /// Files that are kept of a container's log, with the one that is written to
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub container_log_max_files: u32,
}

impl ContainerLogs {
    /// When logs are turned over; `None`: never.
    ///
    /// # Errors
    /// In words, when the size is none.
    pub fn limits(&self) -> anyhow::Result<Option<LogLimits>> {
        let max_bytes = bytes(&self.container_log_max_size)
            .map_err(|why| anyhow::anyhow!("--container-log-max-size: {why}"))?;
        let max_files = usize::try_from(self.container_log_max_files).unwrap_or(usize::MAX);
        Ok(max_bytes.map(|max_bytes| LogLimits { max_bytes, max_files }))
    }
}

/// A size that can be meant; as it was written.
fn size(text: &str) -> Result<String, String> {
    bytes(text).map(|_| text.to_owned())
}

/// As the upstream node agent takes it: below zero logs are not turned over.
fn bytes(text: &str) -> Result<Option<u64>, String> {
    let bytes = Quantity::parse(text).map_err(|error| error.to_string())?.value();
    match u64::try_from(bytes) {
        Ok(0) => Err("a log of no size would never be written".to_owned()),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_quantity_and_a_negative_one_means_never() {
        assert_eq!(["1Ki", "10M", "-1"].map(bytes), [Ok(Some(1024)), Ok(Some(10_000_000)), Ok(None)]);
        assert!(["0", "much", ""].map(bytes).iter().all(Result::is_err));
    }
}
