//! How a machine becomes a node: it checks our authority by the token's hash, proves that it has the token's
//! secret, and gets a client certificate for its name.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use skerry_vocabulary::chain;

use crate::{
    api::Api,
    authorize::node_name,
    error::{self, ApiError},
    pki::{PkiError, Subject},
    respond::{self, Reply},
};

/// The longest request of a node that joins, in bytes.
pub const MAX_BODY: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinRequest {
    node_name: String,
    csr: String,
}

/// `GET /skerry/v1/ca`.
pub fn authority(api: &Api) -> Reply {
    respond::typed(
        StatusCode::OK,
        "application/x-pem-file",
        respond::full(api.authority.certificate_pem().to_owned()),
    )
}

/// Whether to read the request's body at all.
///
/// # Errors
/// 401 for who has neither the token's secret nor a node's certificate.
pub fn check(api: &Api, identity: Option<&Subject>, headers: &HeaderMap) -> Result<(), ApiError> {
    let may = identity.and_then(node_name).is_some() || has_secret(api, headers);
    if may { Ok(()) } else { Err(ApiError::unauthorized()) }
}

fn has_secret(api: &Api, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    // Compared by their hashes: how long it takes says nothing about the secret.
    Sha256::digest(given.trim()) == Sha256::digest(&api.join_secret)
}

/// `POST /skerry/v1/join`, of who was let in by [`check`]: with the token's secret, or with a node's own
/// certificate, which is how it is renewed.
pub fn join(
    api: &Arc<Api>,
    identity: Option<&Subject>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Reply, ApiError> {
    let has_secret = has_secret(api, headers);
    let node = identity.and_then(node_name);
    let request: JoinRequest = serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("the body must be {{\"nodeName\", \"csr\"}}: {error}"))
    })?;
    if !is_node_name(&request.node_name) {
        return Err(ApiError::bad_request(format!(
            "nodeName: Invalid value: {:?}: must be a lower case DNS name of at most 253 characters",
            request.node_name
        )));
    }
    if !has_secret && node != Some(request.node_name.as_str()) {
        let about = error::Subject { group: "", resource: "nodes", name: &request.node_name };
        return Err(ApiError::forbidden(about, "a node renews its own certificate only"));
    }
    let subject = Subject::new(&format!("system:node:{}", request.node_name), &["system:nodes"]);
    let certificate = api.authority.sign_request(&request.csr, &subject).map_err(|error| match error {
        PkiError::Request { .. } => ApiError::bad_request(format!("csr: {}", chain(&error))),
        other => ApiError::internal(chain(&other)),
    })?;
    tracing::info!(node = request.node_name, "signed the certificate of a node that joins");
    Ok(respond::value(
        StatusCode::OK,
        &json!({"certificate": certificate, "ca": api.authority.certificate_pem()}),
    ))
}

/// RFC 1123 subdomain.
pub fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::is_node_name;

    #[test]
    fn node_names_are_dns_names() {
        for good in ["a", "node-1", "n1.example.com"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a/b", "a b", "system:node", &"a".repeat(254)] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
