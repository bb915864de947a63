//! Which requests are served: place in the URL × verb, by kind. Pure.
//!
//! What is not in the table is refused before anything is read or written: 404 where nothing at all is served
//! at the place, 405 where the place is served and the verb is not.

use skerry_schema::Kind;

use crate::{
    error::ApiError,
    request::{ResourceRequest, Verb},
};

/// What may be done with all objects of a namespaced kind at once …
const ACROSS_NAMESPACES: &[Verb] = &[Verb::List, Verb::Watch];
/// … with those of one namespace, or of a cluster-wide kind …
const COLLECTION: &[Verb] = &[Verb::List, Verb::Watch, Verb::Create, Verb::DeleteCollection];
/// … and with one object. Its subresources name their verbs themselves.
const OBJECT: &[Verb] = &[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete];

/// Every verb that a subresource may have.
const SUBRESOURCE: &[Verb] = &[Verb::Get, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];

/// Refuses what is not served.
///
/// # Errors
/// 404 or 405, as upstream's routes answer.
pub fn check(kind: &Kind, request: &ResourceRequest) -> Result<(), ApiError> {
    let served = at_place(kind, request);
    if served.contains(&request.verb) {
        return Ok(());
    }
    if served.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut methods: Vec<&str> = served.into_iter().map(Verb::method).collect();
    methods.sort_unstable();
    methods.dedup();
    Err(ApiError::method_not_allowed().with_allow(methods.join(", ")))
}

/// The verbs that are served where the request points to.
fn at_place(kind: &Kind, request: &ResourceRequest) -> Vec<Verb> {
    if !request.rest.is_empty() && request.subresource != "proxy" {
        return Vec::new();
    }
    let across = kind.namespaced && request.namespace.is_empty();
    // A namespace stands in its own path as one.
    let is_own = kind.storage == "namespaces" && request.namespace == request.name;
    let misplaced = !(kind.namespaced || request.namespace.is_empty() || is_own);
    // The name of a list or watch is one that its selector pins.
    let is_collection = request.name.is_empty() || matches!(request.verb, Verb::List | Verb::Watch);
    let (of_place, of_kind) = match request.subresource.as_str() {
        _ if misplaced => return Vec::new(),
        "" if is_collection => (if across { ACROSS_NAMESPACES } else { COLLECTION }, kind.verbs),
        _ if across => return Vec::new(),
        "" => (OBJECT, kind.verbs),
        name => match kind.subresource(name) {
            Some(sub) => (SUBRESOURCE, sub.verbs),
            None => return Vec::new(),
        },
    };
    of_place.iter().copied().filter(|verb| of_kind.contains(&verb.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use skerry_schema::find;

    use super::*;
    use crate::request::{Query, Target, parse};

    /// 200, or the code of the refusal.
    fn code(method: &str, url: &str) -> u16 {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match parse(&method.parse::<Method>().unwrap(), path, &Query::parse(query)) {
            Some(Target::Resource(request)) => {
                let kind = find(&request.group, &request.version, &request.resource).unwrap();
                check(kind, &request).map_or_else(|refusal| refusal.code(), |()| 200)
            }
            Some(Target::UnknownMethod) => 405,
            Some(Target::Path(_)) => panic!("{url} is no resource"),
            None => 404,
        }
    }

    #[test]
    fn verb_scope_and_subresource_make_a_table() {
        const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let table = [
            // Across namespaces there is reading, and nothing else.
            ("/api/v1/secrets", [200, 405, 405, 405, 405, 405]),
            ("/api/v1/pods?labelSelector=a%3Db", [200, 405, 405, 405, 405, 405]),
            ("/apis/apps/v1/deployments?fieldSelector=metadata.name%3Dx", [200, 405, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a/secrets", [200, 200, 405, 405, 200, 405]),
            ("/api/v1/nodes", [200, 200, 405, 405, 200, 405]),
            ("/api/v1/namespaces", [200, 200, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a", [200, 405, 200, 200, 200, 405]),
            ("/api/v1/namespaces/a/secrets/s", [200, 405, 200, 200, 200, 405]),
            ("/api/v1/nodes/n", [200, 405, 200, 200, 200, 405]),
            ("/api/v1/namespaces/a/pods/p/status", [200, 405, 200, 200, 405, 405]),
            ("/api/v1/namespaces/a/pods/p/exec", [200, 200, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a/pods/p/log", [200, 405, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a/pods/p/eviction", [405, 200, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a/pods/p/proxy", [200; 6]),
            ("/api/v1/namespaces/a/services/https:s:443/proxy/any/path/", [200; 6]),
            ("/api/v1/nodes/n/proxy/stats/summary", [200; 6]),
            ("/api/v1/namespaces/a/configmaps/c/proxy/x", [404, 404, 404, 404, 404, 404]),
            ("/apis/metrics.k8s.io/v1beta1/nodes", [200, 405, 405, 405, 405, 405]),
            ("/apis/metrics.k8s.io/v1beta1/pods", [200, 405, 405, 405, 405, 405]),
            ("/apis/metrics.k8s.io/v1beta1/pods?watch=1", [405, 405, 405, 405, 405, 405]),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/p", [200, 405, 405, 405, 405, 405]),
            ("/api/v1/namespaces/a/finalize", [405, 405, 200, 405, 405, 405]),
            ("/api/v1/namespaces/a/bindings", [405, 200, 405, 405, 405, 405]),
            ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", [405, 200, 405, 405, 405, 405]),
            ("/api/v1/componentstatuses", [200, 405, 405, 405, 405, 405]),
            // The old form of a watch is read only.
            ("/api/v1/watch/namespaces/a/pods", [200, 405, 405, 405, 405, 405]),
            ("/api/v1/watch/namespaces/a/pods/p", [200, 405, 405, 405, 405, 405]),
            // Nothing is there: an object needs its namespace, a cluster-wide kind has none.
            ("/api/v1/secrets/s", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/nodes", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/nodes/n", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/namespaces", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/namespaces/b", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/configmaps/c/status", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/pods/p/status/x", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces/a/pods/p/nonsense", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/watch/namespaces/a/pods/p/log", [404, 404, 404, 404, 404, 405]),
            ("/api/v1/namespaces//secrets", [404; 6]),
            ("/api/v1/namespaces//secrets/s", [404; 6]),
            ("/api/v1/namespaces/a/secrets/", [404; 6]),
            ("/apis/authorization.k8s.io/v1/localsubjectaccessreviews", [404, 404, 404, 404, 404, 405]),
        ];
        for (url, codes) in table {
            let found = METHODS.map(|method| code(method, url));
            assert_eq!(found, codes, "{url} of {METHODS:?}");
        }
    }

    #[test]
    fn a_refused_method_names_those_that_are_served() {
        let query = Query::default();
        let Some(Target::Resource(request)) = parse(&Method::DELETE, "/api/v1/secrets", &query) else {
            panic!("a resource")
        };
        let refusal = check(find("", "v1", "secrets").unwrap(), &request).unwrap_err();
        assert_eq!(refusal.allow(), Some("GET"));
        assert_eq!(refusal.status()["reason"], "MethodNotAllowed");
    }
}
