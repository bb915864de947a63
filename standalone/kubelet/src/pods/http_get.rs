//! `httpGet` of probes and hooks. Redirects are followed on the host that was asked; where one leads
//! elsewhere the probe ends there, passes, and says so (upstream's rules: a probe tells of the pod, not of
//! others).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::net::TcpStream;

use super::hooks::{ANSWER_LIMIT, Outcome, Target, authority, dial_error, port};
use crate::tls;

/// Requests of one probe, the first and those that redirects ask for.
const MAX_REQUESTS: usize = 10;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    secure: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

impl Place {
    fn url(&self) -> String {
        format!("http{}://{}{}", if self.secure { "s" } else { "" }, self.authority(), self.path)
    }

    fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// What a `Location` header means here (RFC 9110, 10.2.2); `None` for what is no HTTP address.
    fn redirected(&self, location: &str) -> Option<Place> {
        let (target, _fragment) = location.split_once('#').unwrap_or((location, ""));
        let scheme = if self.secure { "https:" } else { "http:" };
        let absolute = match target {
            rest if rest.starts_with("//") => format!("{scheme}{rest}"),
            rest if rest.split(['/', '?']).next().is_some_and(|head| head.contains(':')) => rest.to_owned(),
            rest => return Some(Place { path: joined(&self.path, rest), ..self.clone() }),
        };
        let uri: Uri = absolute.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        Some(Place { secure, host: uri.host()?.trim_matches(['[', ']']).to_owned(), port, path })
    }
}

/// A relative reference against the path that it came from (RFC 3986, 5.2).
fn joined(base: &str, reference: &str) -> String {
    let (base_path, base_query) = base.split_once('?').unwrap_or((base, ""));
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let merged = match path {
        "" => base_path.to_owned(),
        rooted if rooted.starts_with('/') => rooted.to_owned(),
        relative => format!("{}/{relative}", base_path.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in merged.split('/').skip(1) {
        match part {
            "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    if merged.ends_with("/.") || merged.ends_with("/..") {
        parts.push("");
    }
    let query = match query {
        None if path.is_empty() && !base_query.is_empty() => Some(base_query),
        other => other,
    };
    match query {
        Some(query) => format!("/{}?{query}", parts.join("/")),
        None => format!("/{}", parts.join("/")),
    }
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

pub async fn http_get(target: &Target, action: &HTTPGetAction) -> Outcome {
    let Some(port) = port(&action.port, &target.container) else {
        return Outcome::Errored(format!("port {:?} is none of the container's", action.port));
    };
    let Some(host) = action.host.clone().filter(|host| !host.is_empty()).or_else(|| target.pod_ip.clone())
    else {
        return Outcome::Errored("the pod has no address yet".to_owned());
    };
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let first = Place {
        secure: action.scheme.as_deref() == Some("HTTPS"),
        host,
        port,
        path: format!("{slash}{path}"),
    };
    let headers = match headers(action) {
        Ok(headers) => headers,
        Err(text) => return Outcome::Errored(format!("Get \"{}\": {text}", first.url())),
    };
    follow(first, &headers).await
}

/// Asks, and asks again where it is sent to, as long as that is the host that was asked first.
async fn follow(first: Place, headers: &HeaderMap) -> Outcome {
    let mut place = first.clone();
    let mut named_host = true;
    for _ in 0..MAX_REQUESTS {
        let answer = match ask(&place, headers, named_host).await {
            Ok(answer) => answer,
            Err(text) => return Outcome::Failed(format!("Get \"{}\": {text}", place.url())),
        };
        let location = answer.location.as_deref().filter(|_| leads_on(answer.status));
        let Some(location) = location else { return judged(&answer) };
        let Some(next) = place.redirected(location) else {
            let text = format!("failed to parse Location header {location:?}");
            return Outcome::Failed(format!("Get \"{}\": {text}", place.url()));
        };
        if next.host != first.host {
            return judged(&answer);
        }
        // A host that the probe names by a header is meant for its own address only.
        named_host &= (next.secure, next.port) == (place.secure, place.port);
        place = next;
    }
    Outcome::Failed(format!("Get \"{}\": stopped after {MAX_REQUESTS} redirects", place.url()))
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn judged(answer: &Answer) -> Outcome {
    match answer.status.as_u16() {
        200..300 => Outcome::Passed,
        300..400 => Outcome::Warned(format!(
            "Probe terminated redirects, Response body: {}",
            String::from_utf8_lossy(&answer.body)
        )),
        status => Outcome::Failed(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// The probe's own headers, and those that it does not name itself. An empty one leaves ours out.
fn headers(action: &HTTPGetAction) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for own in action.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(own.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(&own.value).map_err(|error| error.to_string())?;
        headers.append(name, value);
    }
    for (name, value) in [(header::USER_AGENT, "kube-probe/1.36"), (header::ACCEPT, "*/*")] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(&name);
        } else if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// One request on a fresh connection. `named_host`: a `Host` among the headers counts.
async fn ask(place: &Place, headers: &HeaderMap, named_host: bool) -> Result<Answer, String> {
    let mut headers = headers.clone();
    if !named_host || headers.get(header::HOST).is_none_or(HeaderValue::is_empty) {
        let host = HeaderValue::from_str(&place.authority()).map_err(|error| error.to_string())?;
        headers.insert(header::HOST, host);
    }
    let mut request = http::Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = place.path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    *request.headers_mut() = headers;
    let stream = TcpStream::connect((place.host.as_str(), place.port))
        .await
        .map_err(|error| dial_error(&place.authority(), &error))?;
    if !place.secure {
        return exchange(stream, request).await;
    }
    let stream = tls::connect_unverified(&place.host, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await
}

/// The answer's body is read up to a bound.
async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    let read = match answer {
        Ok(answer) => {
            let location = answer.headers().get(header::LOCATION);
            let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
            Ok(Answer { status, location: location.filter(|location| !location.is_empty()), body })
        }
        Err(text) => Err(text),
    };
    driver.abort();
    read
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn target(port: u16) -> Target {
        let ports = json!([{"name": "web", "containerPort": port}]);
        Target {
            container_id: String::new(),
            container: serde_json::from_value(json!({"name": "c", "ports": ports})).unwrap(),
            pod_ip: Some("127.0.0.1".to_owned()),
        }
    }

    /// Answers each path as `answer` says, with its own port in place of `PORT`.
    async fn serve(answer: fn(&str) -> &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0_u8; 1024];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let text = match path {
                    "/host" => {
                        format!("HTTP/1.1 {}\r\n\r\n", if head.contains("host: a.b\r\n") { 200 } else { 421 })
                    }
                    path => answer(path).replace("PORT", &port.to_string()),
                };
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        port
    }

    fn action(path: &str) -> HTTPGetAction {
        serde_json::from_value(json!({"port": "web", "path": path})).unwrap()
    }

    #[tokio::test]
    async fn an_http_probe_follows_redirects_on_its_own_host_and_judges_where_they_end() {
        let port = serve(|path| match path {
            "/ok" => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "/local" | "/a/b" => "HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n",
            "/relative/x" => "HTTP/1.1 307 T\r\nlocation: ../ok\r\ncontent-length: 0\r\n\r\n",
            "/whole" => "HTTP/1.1 301 M\r\nlocation: http://127.0.0.1:PORT/ok\r\ncontent-length: 0\r\n\r\n",
            "/to-503" => "HTTP/1.1 302 Found\r\nlocation: /bad\r\ncontent-length: 0\r\n\r\n",
            "/away" => "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 2\r\n\r\nby",
            "/nowhere" | "/not-modified" => "HTTP/1.1 304 N\r\n\r\n",
            "/loop" => "HTTP/1.1 302 Found\r\nlocation: /loop\r\ncontent-length: 0\r\n\r\n",
            _ => "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        })
        .await;
        let warned =
            |body: &str| Outcome::Warned(format!("Probe terminated redirects, Response body: {body}"));
        let no = Outcome::Failed("HTTP probe failed with statuscode: 503".to_owned());
        let endless = format!("Get \"http://127.0.0.1:{port}/loop\": stopped after 10 redirects");
        let cases = [
            ("/ok", Outcome::Passed),
            ("ok", Outcome::Passed),
            ("/local", Outcome::Passed),
            ("/relative/x", Outcome::Passed),
            ("/whole", Outcome::Passed),
            ("/to-503", no.clone()),
            ("x", no),
            ("/away", warned("by")),
            ("/not-modified", warned("")),
            ("/loop", Outcome::Failed(endless)),
        ];
        for (path, expected) in cases {
            assert_eq!(http_get(&target(port), &action(path)).await, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn a_host_that_the_probe_names_is_kept_through_redirects() {
        let port = serve(|_| "HTTP/1.1 302 Found\r\nlocation: /host\r\ncontent-length: 0\r\n\r\n").await;
        let mut action = action("/");
        assert!(matches!(http_get(&target(port), &action).await, Outcome::Failed(_)));
        action.http_headers = serde_json::from_value(json!([{"name": "Host", "value": "a.b"}])).unwrap();
        assert_eq!(http_get(&target(port), &action).await, Outcome::Passed);
    }

    #[test]
    fn locations_are_read_against_the_address_that_sent_them() {
        let place = Place { secure: false, host: "10.0.0.1".into(), port: 8080, path: "/a/b?q=1".into() };
        let cases = [
            ("/x", Some("http://10.0.0.1:8080/x")),
            ("x?y=2", Some("http://10.0.0.1:8080/a/x?y=2")),
            ("", Some("http://10.0.0.1:8080/a/b?q=1")),
            ("?z", Some("http://10.0.0.1:8080/a/b?z")),
            ("../../../x/./y/..#part", Some("http://10.0.0.1:8080/x/")),
            ("//10.0.0.2/x", Some("http://10.0.0.2:80/x")),
            ("https://[fd00::1]/x", Some("https://[fd00::1]:443/x")),
            ("http://10.0.0.1?a", Some("http://10.0.0.1:80/?a")),
            ("ftp://10.0.0.1/x", None),
            ("mailto:a", None),
        ];
        for (location, expected) in cases {
            let url = place.redirected(location).map(|place| place.url());
            assert_eq!(url.as_deref(), expected, "{location}");
        }
    }
}
