//! `nodes|pods|services/NAME/proxy`: a request passed on to what runs there, over the connection that its
//! node has opened.
//!
//! [`place`] reads the name (`https:NAME:PORT`) and finds out what is meant, `reach` connects to it; here the
//! request is passed on and the answer back, upgrades included.

mod place;
mod reach;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::client::conn::http1::SendRequest;

use crate::{
    api::{Api, Call},
    containers::{Passed, copy_headers, relay, splice},
    error::ApiError,
    respond::{self, Reply},
};
use place::Place;

/// What pages of others may do is their server's to say, not that of what is behind the proxy.
const CORS: &[HeaderName] = &[
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// A request below `proxy`, and what it is passed on as.
struct Way {
    /// The path up to and with `proxy`.
    prefix: String,
    /// What follows, as it was sent; `None`: not even a slash.
    rest: Option<String>,
}

impl Way {
    fn of(uri: &Uri, namespaced: bool) -> Way {
        // An empty one before the first slash, `api`, the version, the resource, the name and `proxy`.
        let segments = if namespaced { 8 } else { 6 };
        let end = uri.path().match_indices('/').nth(segments - 1).map(|(at, _)| at);
        match end {
            Some(at) => Way { prefix: uri.path()[..at].to_owned(), rest: Some(uri.path()[at..].to_owned()) },
            None => Way { prefix: uri.path().to_owned(), rest: None },
        }
    }

    /// Where an answer's `Location` points to, seen from the client: what the proxied server names by its own
    /// paths lies below the prefix.
    fn location(&self, told: &str, host: &str) -> Option<String> {
        let path = match told.split_once("://") {
            Some((_, rest)) => {
                let (authority, _) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                let path = &rest[authority.len()..];
                (authority == host)
                    .then(|| if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })?
            }
            None if told.starts_with('/') && !told.starts_with("//") => told.to_owned(),
            None => return None,
        };
        Some(format!("{}{path}", self.prefix))
    }
}

/// The answer of what is behind the request's object.
pub async fn connect(api: &Arc<Api>, call: &Call, passed: Passed) -> Result<Reply, ApiError> {
    let way = Way::of(&passed.uri, call.kind.namespaced);
    let place = Place::find(api, call).await?;
    let is_page = passed.upgrade.is_none() && matches!(passed.method, Method::GET | Method::HEAD);
    if way.rest.is_none() && is_page {
        return redirect(&format!("{}/", way.prefix));
    }
    pass(api, call, passed, &way, &place).await
}

/// Relative links of a page that is asked for without the last slash would lead elsewhere.
fn redirect(to: &str) -> Result<Reply, ApiError> {
    let mut reply = Reply::new(respond::empty());
    *reply.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location =
        HeaderValue::from_str(to).map_err(|_| ApiError::bad_request("the path makes no header"))?;
    reply.headers_mut().insert(header::LOCATION, location);
    Ok(reply)
}

async fn pass(
    api: &Arc<Api>,
    call: &Call,
    passed: Passed,
    way: &Way,
    place: &Place,
) -> Result<Reply, ApiError> {
    let host = place.host();
    let mut client: SendRequest<respond::Body> = reach::connect(api, place).await?;
    let path = way.rest.as_deref().unwrap_or("/");
    let Passed { method, uri, upgrade, body } = passed;
    let has_body = body.is_some();
    let mut request = Request::new(body.unwrap_or_else(respond::empty));
    *request.method_mut() = method;
    let target = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    *request.uri_mut() =
        target.parse().map_err(|_| ApiError::bad_request("the rest of the path makes no URL"))?;
    copy_headers(&call.headers, request.headers_mut());
    let headers = request.headers_mut();
    if has_body {
        set(headers, "content-length", call.headers.get(header::CONTENT_LENGTH).cloned());
    }
    if upgrade.is_none() {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    let asked_host = call.headers.get(header::HOST).cloned();
    let asked_host = asked_host.or_else(|| HeaderValue::from_str(uri.authority()?.as_str()).ok());
    set(headers, "x-forwarded-uri", HeaderValue::from_str(uri.path()).ok());
    set(headers, "x-forwarded-host", asked_host);
    set(headers, "x-forwarded-proto", Some(HeaderValue::from_static("https")));
    headers.insert(
        header::HOST,
        HeaderValue::from_str(&host).map_err(|_| ApiError::internal("a host makes no header"))?,
    );
    let mut response = client.send_request(request).await.map_err(|error| reach::unreachable(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return splice(&mut response, upgrade, api);
    }
    let (parts, body) = response.into_parts();
    let mut answer = Reply::new(relay(body));
    *answer.status_mut() = parts.status;
    copy_headers(&parts.headers, answer.headers_mut());
    let headers = answer.headers_mut();
    set(headers, "content-length", parts.headers.get(header::CONTENT_LENGTH).cloned());
    for name in CORS.iter().chain(&[header::CONNECTION, header::UPGRADE]) {
        headers.remove(name);
    }
    let told = headers.get(header::LOCATION).and_then(|told| told.to_str().ok());
    let location = told.and_then(|told| HeaderValue::from_str(&way.location(told, &host)?).ok());
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    Ok(answer)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(path: &str, namespaced: bool) -> (String, Option<String>) {
        let Way { prefix, rest } = Way::of(&path.parse().unwrap(), namespaced);
        (prefix, rest)
    }

    #[test]
    fn what_follows_is_passed_on_as_it_was_sent() {
        let pod = "/api/v1/namespaces/n/pods/http:p:80/proxy";
        assert_eq!(way(pod, true), (pod.to_owned(), None));
        assert_eq!(way(&format!("{pod}/"), true), (pod.to_owned(), Some("/".to_owned())));
        let rest = "/a%2Fb//c/?x=%20";
        assert_eq!(way(&format!("{pod}{rest}"), true), (pod.to_owned(), Some("/a%2Fb//c/".to_owned())));
        let node = "/api/v1/nodes/n/proxy";
        assert_eq!(
            way(&format!("{node}/stats/summary"), false),
            (node.to_owned(), Some("/stats/summary".to_owned()))
        );
    }

    #[test]
    fn locations_of_the_proxied_server_lead_back_through_the_proxy() {
        let way = Way { prefix: "/p/proxy".to_owned(), rest: None };
        let cases = [
            ("/login?x=1", Some("/p/proxy/login?x=1")),
            ("http://10.0.0.1:80/a", Some("/p/proxy/a")),
            ("https://10.0.0.1:80", Some("/p/proxy/")),
            ("https://example.com/a", None),
            ("//example.com/a", None),
            ("relative", None),
        ];
        for (told, expected) in cases {
            assert_eq!(way.location(told, "10.0.0.1:80").as_deref(), expected, "{told}");
        }
    }
}
