//! Settings out of ConfigMaps: `skerry-dns` is ours; where there is none, what we understand of CoreDNS'
//! `coredns` holds.

mod corefile;
mod own;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use hickory_proto::rr::Name;

use crate::{model::Document, settings::Settings};

/// Both in this namespace.
pub const NAMESPACE: &str = "kube-system";
pub const OWN: &str = "skerry-dns";
pub const COREDNS: &str = "coredns";
/// The keys that are read in them.
const OWN_KEY: &str = "config.yaml";
const COREDNS_KEY: &str = "Corefile";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("ConfigMap {NAMESPACE}/{OWN} has no key {OWN_KEY}: put the settings there")]
    NoKey,
    #[error("{OWN_KEY} of ConfigMap {NAMESPACE}/{OWN} is not understood")]
    Unread(#[from] serde_saphyr::Error),
    #[error("{OWN_KEY} of ConfigMap {NAMESPACE}/{OWN}: {0}")]
    Wrong(String),
}

/// What holds, and what is to be told of it.
#[derive(Debug, Default)]
pub struct Read {
    pub settings: Settings,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// # Errors
/// When our own one can't be read: what held before holds on.
pub fn read(documents: &BTreeMap<Box<str>, Document>, domain: &Name) -> Result<Read, ConfigError> {
    if let Some(own) = documents.get(OWN) {
        let text = own.get(OWN_KEY).ok_or(ConfigError::NoKey)?;
        return Ok(Read { settings: own::read(text)?, warnings: Vec::new() });
    }
    let corefile = documents.get(COREDNS).and_then(|document| document.get(COREDNS_KEY));
    Ok(corefile.map(|text| corefile::read(text, domain)).unwrap_or_default())
}

/// `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:53`.
fn server(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_prefix("dns://").unwrap_or(text);
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 53));
    }
    text.parse().map_err(|_| {
        format!("`{text}` is no resolver's address: write 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53")
    })
}

/// With all its labels, in lower case.
fn name(text: &str) -> Result<Name, String> {
    let mut name = Name::from_utf8(text).map_err(|error| format!("`{text}` is no name: {error}"))?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}
