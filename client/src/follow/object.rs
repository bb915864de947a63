use serde::{Deserialize, de::DeserializeOwned};
use skerry_vocabulary::ObjectKey;
use tokio::time::Instant;

use crate::Item;

/// The text of one object, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// JSON.
    pub text: &'a str,
    /// When its last byte was here.
    pub received: Instant,
}

impl Object<'_> {
    /// Its name, whether the rest of it can be read or not.
    pub fn key(self) -> Option<ObjectKey> {
        let meta = Meta::of(self.text);
        Some(ObjectKey::new(&meta.namespace.unwrap_or_default(), &meta.name?))
    }

    /// The whole object, or why it can't be read; then it is named in the log.
    ///
    /// # Errors
    /// When it has not the shape of a `T`.
    pub fn read<T: DeserializeOwned>(self) -> serde_json::Result<T> {
        serde_json::from_str(self.text).inspect_err(|error| self.left_out(error))
    }

    /// The object, or what can be read of it.
    ///
    /// # Errors
    /// When nothing can.
    pub fn item<K: DeserializeOwned>(self) -> serde_json::Result<Item<K>> {
        Item::read(self.text)
    }

    fn left_out(self, error: &serde_json::Error) {
        match self.key() {
            Some(key) => tracing::warn!(%error, object = %key, "object left out: not understood"),
            None => {
                let start: String = self.text.chars().take(200).collect();
                tracing::warn!(%error, object = start, "object left out: not understood");
            }
        }
    }
}

/// What every object has.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub resource_version: Option<String>,
}

impl Meta {
    /// Of an object of any kind; nothing where its metadata can't be read.
    pub fn of(text: &str) -> Meta {
        #[derive(Deserialize)]
        struct Bare {
            #[serde(default)]
            metadata: Meta,
        }
        serde_json::from_str(text).map(|bare: Bare| bare.metadata).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_cannot_be_read_still_has_its_name() {
        let key = |text| Object { text, received: Instant::now() }.key();
        let broken = r#"{"metadata":{"name":"web","namespace":"ns"},"spec":{"ports":7}}"#;
        assert_eq!(key(broken), Some(ObjectKey::new("ns", "web")));
        assert_eq!(key(r#"{"metadata":{"name":"n"},"status":7}"#), Some(ObjectKey::new("", "n")));
        assert_eq!(key("7"), None);
    }
}
