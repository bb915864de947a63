//! What the server serves, in the forms that clients ask for it.

use std::io::Read;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use skerry_schema::{Document, FormV2, Kind, Subresource, groups, kinds, openapi_v3, openapi_v3_index};

use crate::{
    error::ApiError,
    media::{self, Shape},
    respond::{self, Reply},
};

/// The Kubernetes version whose API this is.
pub const GIT_VERSION: &str = "v1.36.0+skerry";
/// A document that the client does not read packed is sent in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;
const DISCOVERY_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/api`, `/apis` and what is below them; `None`: no such path.
pub fn answer(segments: &[&str], headers: &HeaderMap, server: &str) -> Result<Option<Reply>, ApiError> {
    let shape = media::accept(headers)?;
    let value = match segments {
        ["api"] if shape == Shape::Discovery => return Ok(Some(aggregated(&[""]))),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]}),
        ["apis"] if shape == Shape::Discovery => {
            let named: Vec<&str> =
                groups().iter().map(|group| group.name).filter(|name| !name.is_empty()).collect();
            return Ok(Some(aggregated(&named)));
        }
        ["apis"] => {
            let list: Vec<Value> =
                groups().iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
        }
        ["apis", group] => match groups().iter().find(|found| found.name == *group && !group.is_empty()) {
            Some(group) => {
                let mut value = group_value(group);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                value
            }
            None => return Ok(None),
        },
        ["api", version] => match resources("", version) {
            Some(value) => value,
            None => return Ok(None),
        },
        ["apis", group, version] => match resources(group, version) {
            Some(value) => value,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(respond::value(StatusCode::OK, &value)))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_value(group: &skerry_schema::Group) -> Value {
    let version =
        |version: &&str| json!({"groupVersion": group_version(group.name, version), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

fn of_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + use<'a> {
    kinds().iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// `APIResourceList` of one group version.
fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for kind in of_version(group, version) {
        let mut resource = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": kind.verbs});
        if !kind.short_names.is_empty() {
            resource["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            resource["categories"] = json!(kind.categories);
        }
        list.push(resource);
        for sub in kind.subresources {
            let mut resource = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if !sub.version.is_empty() {
                resource["group"] = sub.group.into();
                resource["version"] = sub.version.into();
            }
            list.push(resource);
        }
    }
    if list.is_empty() {
        return None;
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version), "resources": list}),
    )
}

/// `APIGroupDiscoveryList`.
fn aggregated(names: &[&str]) -> Reply {
    let all = groups();
    let items: Vec<Value> = names
        .iter()
        .filter_map(|name| all.iter().find(|group| group.name == *name))
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = of_version(group.name, version).map(discovered).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    respond::typed(StatusCode::OK, DISCOVERY_TYPE, respond::full(format!("{list}\n")))
}

fn discovered(kind: &'static Kind) -> Value {
    let subresources: Vec<Value> = kind.subresources.iter().map(|sub| discovered_sub(kind, sub)).collect();
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs,
    });
    for (field, list) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
        if !list.is_empty() {
            resource[field] = json!(list);
        }
    }
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}

fn discovered_sub(kind: &Kind, sub: &Subresource) -> Value {
    let (group, version) =
        if sub.version.is_empty() { (kind.group, kind.version) } else { (sub.group, sub.version) };
    json!({"subresource": sub.name, "responseKind": {"group": group, "version": version, "kind": sub.kind}, "verbs": sub.verbs})
}

/// `/openapi/v3` and the documents below it.
pub fn openapi(segments: &[&str], headers: &HeaderMap) -> Result<Option<Reply>, ApiError> {
    if segments.is_empty() {
        return Ok(Some(respond::json(StatusCode::OK, openapi_v3_index())));
    }
    let Some(document) = openapi_v3(&segments.join("/")) else { return Ok(None) };
    let mut reply = documented(document, "application/json", headers);
    // The index's addresses have a hash in them: what is behind one never changes.
    reply
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    Ok(Some(reply))
}

/// Ways to ask for the protobuf form; and what it is called then: a media type has no `@`.
const PROTOBUF_V2: &[&str] = &[
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// `/openapi/v2`: the older form of them all in one. kubectl 1.20 applies and explains by it.
///
/// # Errors
/// 406 for a form that it is not written in.
pub fn openapi_v2(headers: &HeaderMap) -> Result<Reply, ApiError> {
    let asked = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = |entry: &str| {
        let media = entry.split(';').next().unwrap_or_default().trim();
        match media {
            "" | "*/*" | "application/*" | "application/json" => Some((FormV2::Json, "application/json")),
            media if PROTOBUF_V2.contains(&media) => Some((FormV2::Protobuf, PROTOBUF_V2[1])),
            _ => None,
        }
    };
    let written = format!("application/json, {}", PROTOBUF_V2[0]);
    let (form, media) = asked.split(',').find_map(media).ok_or_else(|| ApiError::not_acceptable(&written))?;
    Ok(documented(skerry_schema::openapi_v2(form), media, headers))
}

/// A document, packed where the client reads that, else unpacked piece by piece; nothing where the client has
/// it.
fn documented(document: Document, media: &'static str, headers: &HeaderMap) -> Reply {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut reply = if known.is_some_and(|known| known.split(',').any(|known| known.trim() == etag)) {
        let mut reply = Reply::new(respond::empty());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        reply
    } else if accepts_gzip(headers) {
        let mut reply = respond::typed(StatusCode::OK, media, respond::full(document.gz));
        reply.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        reply
    } else {
        respond::typed(StatusCode::OK, media, respond::stream(unpacked(document.gz)))
    };
    let headers = reply.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    reply
}

/// The pieces of a packed document, so that a long one does not stand in memory as a whole. It was packed by
/// us: there is nothing in it that can't be unpacked.
fn unpacked(gz: &'static [u8]) -> impl futures::Stream<Item = Bytes> + Send {
    let mut decoder = flate2::read::GzDecoder::new(gz);
    let pieces = std::iter::from_fn(move || {
        let mut piece = Vec::new();
        decoder.by_ref().take(PIECE_BYTES).read_to_end(&mut piece).ok().filter(|read| *read > 0)?;
        Some(Bytes::from(piece))
    });
    futures::stream::iter(pieces)
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').any(|coding| coding.split(';').next().unwrap_or_default().trim() == "gzip")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(segments: &[&str], accept: &str) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let reply = answer(segments, &headers, "127.0.0.1:6443").unwrap().unwrap();
        serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn plain_and_aggregated_discovery_name_the_same_resources() {
        let plain = get(&["apis", "apps", "v1"], "application/json").await;
        let names: Vec<&str> =
            plain["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"deployments") && names.contains(&"deployments/scale"));
        let whole = get(&["apis"], DISCOVERY_TYPE).await;
        let apps = whole["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|group| group["metadata"]["name"] == "apps")
            .unwrap();
        let resources = apps["versions"][0]["resources"].as_array().unwrap();
        let listed: usize =
            resources.iter().map(|r| 1 + r["subresources"].as_array().map_or(0, Vec::len)).sum();
        assert_eq!(listed, names.len());
    }

    #[tokio::test]
    async fn version_2_of_the_document_is_had_in_both_forms_packed_or_not() {
        let ask = |accept: &str, coding: &str, known: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in
                [(header::ACCEPT, accept), (header::ACCEPT_ENCODING, coding), (header::IF_NONE_MATCH, known)]
            {
                headers.insert(name, value.parse().unwrap());
            }
            openapi_v2(&headers)
        };
        let plain = ask("application/json", "", "").unwrap();
        let etag = plain.headers()[header::ETAG].to_str().unwrap().to_owned();
        let plain = plain.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&plain).unwrap()["swagger"], "2.0");
        let packed = ask("*/*", "gzip", "").unwrap();
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        let packed = packed.into_body().collect().await.unwrap().to_bytes();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
        assert_eq!(ask("application/json", "", &etag).unwrap().status(), StatusCode::NOT_MODIFIED);
        let protobuf = ask(PROTOBUF_V2[0], "", &etag).unwrap();
        assert_eq!(
            (protobuf.status(), &protobuf.headers()[header::CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static(PROTOBUF_V2[1]))
        );
        assert_eq!(ask("text/html", "", "").unwrap_err().code(), 406);
    }

    #[test]
    fn an_unknown_group_is_no_path() {
        assert!(answer(&["apis", "nope.example"], &HeaderMap::new(), "").unwrap().is_none());
        assert!(answer(&["api", "v2"], &HeaderMap::new(), "").unwrap().is_none());
    }
}
