//! Which kinds there are: what discovery says and where objects are kept.

mod convert;
mod table;

pub use convert::{from_storage, to_storage};
pub use table::{Deleted, GROUP_ORDER, KINDS, Kind, METRICS_GROUP, Subresource};

/// A group and its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `""` for the core group.
    pub name: &'static str,
    /// Never empty.
    pub versions: Vec<&'static str>,
}

/// Every kind that is served, in discovery's order.
pub fn kinds() -> &'static [Kind] {
    KINDS
}

/// The kind behind `/apis/GROUP/VERSION/PLURAL` (`group` is `""` for `/api/v1`).
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind that an object with this `apiVersion` and `kind` is of.
pub fn find_kind(api_version: &str, name: &str) -> Option<&'static Kind> {
    let (group, version) = split_api_version(api_version);
    KINDS.iter().find(|kind| kind.group == group && kind.version == version && kind.kind == name)
}

/// The groups in upstream's order; the core group (`""`) first.
pub fn groups() -> Vec<Group> {
    GROUP_ORDER
        .iter()
        .map(|&name| {
            let mut versions: Vec<&'static str> = Vec::new();
            for kind in KINDS.iter().filter(|kind| kind.group == name) {
                if !versions.contains(&kind.version) {
                    versions.push(kind.version);
                }
            }
            Group { name, versions }
        })
        .collect()
}

/// `apps/v1` → `("apps", "v1")`, `v1` → `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

impl Kind {
    /// As objects carry it: `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As messages name the resource: `deployments.apps`, `pods`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// As messages name the kind: `Deployment.apps`, `Pod`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// By the path's last part: `status`, `scale`.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// As discovery spells it: `deletecollection`.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

#[cfg(test)]
mod tests;
