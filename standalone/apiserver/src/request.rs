//! What a URL asks for: the verb, the resource, the name. Pure.

use http::Method;

/// A parsed query string; keys may stand in it more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set: `watch`, `watch=true` and `watch=1` are, `stdin=False` (Python's spelling) is
    /// not.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// The HTTP method that asks for it.
    pub fn method(self) -> &'static str {
        match self {
            Verb::Get | Verb::List | Verb::Watch => "GET",
            Verb::Create => "POST",
            Verb::Update => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete | Verb::DeleteCollection => "DELETE",
        }
    }
}

/// A request for a resource. Empty strings: not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRequest {
    pub verb: Verb,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource, without the slash (`proxy/PATH`).
    pub rest: String,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Resource(ResourceRequest),
    /// Discovery, health, join, tunnel: the path's segments, percent-decoded.
    Path(Vec<String>),
    /// A resource's place, and a method that stands for no verb there.
    UnknownMethod,
}

/// `None`: the path is no URL of ours (broken escapes, empty segments).
pub fn parse(method: &Method, path: &str, query: &Query) -> Option<Target> {
    let segments: Vec<String> =
        path.strip_prefix('/')?.split('/').map(|segment| percent_decode(segment, false)).collect();
    let (group, version, rest) = match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["api", version, rest @ ..] if has_resource(rest) => ("", *version, rest.len()),
        ["apis", group, version, rest @ ..] if has_resource(rest) => (*group, *version, rest.len()),
        _ => return Some(Target::Path(trimmed(segments))),
    };
    let rest = &segments[segments.len() - rest..];
    resource(method, group, version, rest, query)
}

fn has_resource(rest: &[&str]) -> bool {
    rest.first().is_some_and(|segment| !segment.is_empty())
}

fn trimmed(mut segments: Vec<String>) -> Vec<String> {
    if segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    segments
}

fn resource(method: &Method, group: &str, version: &str, rest: &[String], query: &Query) -> Option<Target> {
    let parts: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (old_watch, parts) = match parts.as_slice() {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest.to_vec()),
        _ => (false, parts),
    };
    let in_core = group.is_empty();
    let (namespace, tail) = match parts.as_slice() {
        // The namespace itself, and its own subresources.
        ["namespaces", name, "status" | "finalize"] if in_core => (*name, parts.clone()),
        ["namespaces", name] if in_core => (*name, parts.clone()),
        ["namespaces", namespace, tail @ ..] if !tail.is_empty() => (*namespace, tail.to_vec()),
        _ => ("", parts.clone()),
    };
    let segment = |at: usize| tail.get(at).copied().unwrap_or_default();
    let (resource, mut name, subresource) = (segment(0), segment(1).to_owned(), segment(2));
    // An empty namespace is not "all of them".
    let nameless = matches!(parts.as_slice(), ["namespaces", "", ..]);
    if nameless || resource.is_empty() || tail.iter().take(3).skip(1).any(|part| part.is_empty()) {
        return None;
    }
    // Names end up in the store's keys.
    if name.contains('/') || namespace.contains('/') {
        return None;
    }
    let watches = old_watch || (name.is_empty() && query.flag("watch"));
    // What is behind a proxy may know methods that are no verbs.
    let method = if subresource == "proxy" && method == Method::OPTIONS { &Method::GET } else { method };
    let Some(verb) = verb(method, !name.is_empty(), watches) else { return Some(Target::UnknownMethod) };
    if old_watch && !subresource.is_empty() {
        return None;
    }
    if old_watch && verb != Verb::Watch {
        return Some(Target::UnknownMethod);
    }
    if name.is_empty() && matches!(verb, Verb::List | Verb::Watch) {
        // A list of one name is authorized like a get of it.
        let pinned = crate::selectors::FieldSelector::parse(query.get("fieldSelector").unwrap_or_default());
        name = pinned
            .ok()
            .and_then(|selector| selector.pinned("metadata.name").map(str::to_owned))
            .unwrap_or_default();
    }
    Some(Target::Resource(ResourceRequest {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        name,
        subresource: subresource.to_owned(),
        rest: tail.get(3..).unwrap_or_default().join("/"),
    }))
}

fn verb(method: &Method, named: bool, watch: bool) -> Option<Verb> {
    Some(match *method {
        // A watch of one name is a watch of the collection with that name selected.
        Method::GET | Method::HEAD if watch => Verb::Watch,
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    })
}

/// Decodes `%XX` (and `+` in a query); broken escapes and bytes that are no UTF-8 are kept as they stand.
fn percent_decode(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) if query => plain.push(b' '),
            (byte, _) => plain.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, url: &str) -> ResourceRequest {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match parse(&method, path, &Query::parse(query)) {
            Some(Target::Resource(request)) => request,
            other => panic!("{url}: {other:?}"),
        }
    }

    fn short(request: &ResourceRequest) -> String {
        let ResourceRequest { verb, group, version, namespace, resource, name, subresource, rest } = request;
        format!("{} {group}/{version} {namespace} {resource} {name} {subresource} {rest}", verb.as_str())
    }

    #[test]
    fn urls_are_taken_apart_as_upstream_does() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list /v1  pods   "),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "get /v1 a pods b  "),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get /v1 a pods b log "),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch /v1 a pods   "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "watch /v1 a pods   "),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 a namespaces a  "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 a namespaces a finalize "),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1 a deployments   ",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch apps/v1 a deployments d scale ",
            ),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1  pods x  "),
            (Method::GET, "/api/v1/namespaces/a/pods/b?watch=1", "get /v1 a pods b  "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/b", "watch /v1 a pods b  "),
            (Method::GET, "/api/v1/namespaces/a/pods/b:80/proxy/x/y", "get /v1 a pods b:80 proxy x/y"),
        ];
        for (method, url, expected) in cases {
            assert_eq!(short(&ask(method, url)), expected, "{url}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_breaks_the_parser(path in "[/a-z%0-9.:é]{0,60}", query in "\\PC{0,60}") {
            let query = Query::parse(&query);
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let _outcome = parse(&method, &path, &query);
                let _outcome = parse(&method, &format!("/api/v1{path}"), &query);
            }
        }
    }

    #[test]
    fn what_is_no_resource_is_a_path() {
        for url in ["/", "/api", "/api/", "/api/v1", "/apis/apps/v1", "/healthz", "/openapi/v3"] {
            assert!(matches!(parse(&Method::GET, url, &Query::default()), Some(Target::Path(_))), "{url}");
        }
        assert_eq!(parse(&Method::GET, "/api/v1/namespaces/a/pods//log", &Query::default()), None);
        assert_eq!(parse(&Method::GET, "/api/v1/namespaces/a/pods/b%2Fc", &Query::default()), None);
        let brew = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(parse(&brew, "/api/v1/pods", &Query::default()), Some(Target::UnknownMethod));
    }
    #[test]
    fn flags_are_set_by_anything_but_a_no() {
        let query = Query::parse("a&b=true&c=1&d=yes&e=false&f=0&g=False");
        let set: Vec<&str> =
            ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().filter(|key| query.flag(key)).collect();
        assert_eq!(set, ["a", "b", "c", "d"]);
    }
}
