use std::{io, time::Duration};

use http::Request;

use super::FollowError;

/// What is followed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Of the kind's list: `/api/v1/pods`, `/apis/apps/v1/namespaces/ns/deployments`.
    pub path: String,
    /// Selector in the API's text form; `None`: all.
    pub labels: Option<String>,
    /// As `labels`, of fields.
    pub fields: Option<String>,
    /// Only the objects' metadata (`PartialObjectMetadata`).
    pub metadata_only: bool,
}

pub(super) enum Ask<'a> {
    /// Of a list; an empty token is the first.
    Page {
        limit: usize,
        token: &'a str,
    },
    Watch {
        from: &'a str,
        lasts: Duration,
    },
}

impl Target {
    /// Everything below a path.
    pub fn all(path: impl Into<String>) -> Target {
        Target { path: path.into(), ..Target::default() }
    }

    /// The one object of this name.
    pub fn named(path: impl Into<String>, name: &str) -> Target {
        Target { fields: Some(format!("metadata.name={name}")), ..Target::all(path) }
    }

    pub(super) fn request(&self, ask: Ask<'_>) -> Result<Request<Vec<u8>>, FollowError> {
        let (mut query, form) = match ask {
            Ask::Page { limit, token: "" } => (format!("limit={limit}"), "PartialObjectMetadataList"),
            Ask::Page { limit, token } => {
                (format!("limit={limit}&continue={}", escape(token)), "PartialObjectMetadataList")
            }
            Ask::Watch { from, lasts } => {
                let seconds = lasts.as_secs();
                let from = escape(from);
                let query = format!(
                    "watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}"
                );
                (query, "PartialObjectMetadata")
            }
        };
        for (name, selector) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if let Some(selector) = selector {
                query.push_str(&format!("&{name}={}", escape(selector)));
            }
        }
        let accept = match self.metadata_only {
            true => format!("application/json;as={form};g=meta.k8s.io;v=v1"),
            false => "application/json".to_owned(),
        };
        let request = Request::get(format!("{}?{query}", self.path)).header("accept", accept);
        request.body(Vec::new()).map_err(|source| self.refused(kube::Error::HttpError(source)))
    }

    pub(super) fn refused(&self, source: kube::Error) -> FollowError {
        FollowError::Request { path: self.path.clone(), source: Box::new(source) }
    }

    pub(super) fn unread(&self, source: io::Error) -> FollowError {
        FollowError::Read { path: self.path.clone(), source }
    }

    pub(super) fn text(&self, bytes: Vec<u8>) -> Result<String, FollowError> {
        String::from_utf8(bytes).map_err(|source| FollowError::Text { path: self.path.clone(), source })
    }

    pub(super) fn no_list(&self, source: serde_json::Error) -> FollowError {
        FollowError::List { path: self.path.clone(), source }
    }

    pub(super) fn no_event(&self, source: serde_json::Error) -> FollowError {
        FollowError::Event { path: self.path.clone(), source }
    }

    pub(super) fn no_object(&self) -> FollowError {
        FollowError::NoObject { path: self.path.clone() }
    }

    pub(super) fn oversized(&self, limit: u64) -> FollowError {
        FollowError::Oversized { path: self.path.clone(), limit }
    }

    pub(super) fn silent(&self, after: Duration) -> FollowError {
        FollowError::Silent { path: self.path.clone(), after }
    }

    pub(super) fn ended(&self, code: u16, message: String) -> FollowError {
        FollowError::Ended { path: self.path.clone(), code, message }
    }
}

/// Everything but letters, digits and `-_.~` as `%XX` (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_is_wanted_and_nothing_that_a_token_holds_gets_out_of_it() {
        let target = Target { labels: Some("a=b,!c".into()), ..Target::named("/api/v1/pods", "x") };
        let uri = |ask| target.request(ask).unwrap().uri().to_string();
        assert_eq!(
            uri(Ask::Page { limit: 500, token: "a&b=c" }),
            "/api/v1/pods?limit=500&continue=a%26b%3Dc&labelSelector=a%3Db%2C%21c&fieldSelector=metadata.name%3Dx"
        );
        let watch = uri(Ask::Watch { from: "7", lasts: Duration::from_secs(290) });
        assert!(watch.contains("watch=true") && watch.contains("&resourceVersion=7&"), "{watch}");
        let metadata = Target { metadata_only: true, ..target };
        let request = metadata.request(Ask::Page { limit: 1, token: "" }).unwrap();
        let accept = request.headers()["accept"].to_str().unwrap();
        assert_eq!(accept, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    }
}
