//! One probe or lifecycle hook, run once: exec, HTTP, TCP.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use crate::{agent::Agent, tls};

/// What is read of a probe's answer; upstream's bound as well.
const ANSWER_LIMIT: usize = 10 << 10;

/// Which container is asked, and where its pod answers.
#[derive(Clone, Debug)]
pub struct Target {
    pub container_id: String,
    pub container: Container,
    pub pod_ip: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    /// It could not be tried at all.
    Errored(String),
}

pub async fn probe(agent: &Arc<Agent>, target: &Target, probe: &Probe, limit: Duration) -> Outcome {
    let outcome = async {
        if let Some(action) = &probe.exec {
            exec(agent, target, action, limit).await
        } else if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(target, action).await
        } else if probe.grpc.is_some() {
            Outcome::Errored(
                "grpc probes are not supported by this node agent: use exec or httpGet".to_owned(),
            )
        } else {
            Outcome::Passed
        }
    };
    match tokio::time::timeout(limit + Duration::from_millis(200), outcome).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failed(format!("timed out after {}s", limit.as_secs())),
    }
}

/// Runs a postStart or preStop hook; the text says why it failed.
pub async fn hook(
    agent: &Arc<Agent>,
    target: &Target,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Option<String> {
    let outcome = async {
        if let Some(action) = &hook.exec {
            exec(agent, target, action, limit).await
        } else if let Some(action) = &hook.http_get {
            http_get(target, action).await
        } else if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
            Outcome::Passed
        } else {
            Outcome::Passed
        }
    };
    match tokio::time::timeout(limit, outcome).await {
        Ok(Outcome::Passed) => None,
        Ok(Outcome::Failed(text) | Outcome::Errored(text)) => Some(text),
        Err(_) => Some(format!("did not end within {}s", limit.as_secs())),
    }
}

async fn exec(agent: &Arc<Agent>, target: &Target, action: &ExecAction, limit: Duration) -> Outcome {
    let command = action.command.clone().unwrap_or_default();
    match agent.cri.exec_sync(&target.container_id, &command, limit).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Passed,
        Ok(answer) => {
            let text = [answer.stdout, answer.stderr].concat();
            let text = &text[..text.len().min(ANSWER_LIMIT)];
            Outcome::Failed(String::from_utf8_lossy(text).into_owned())
        }
        Err(error) if error.runtime_message().contains("exceeded") => {
            Outcome::Failed(format!("command timed out after {}s", limit.as_secs()))
        }
        Err(error) => Outcome::Errored(error.runtime_message()),
    }
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Outcome {
    let Some(port) = port(&action.port, &target.container) else {
        return Outcome::Errored(format!("port {:?} is none of the container's", action.port));
    };
    let Some(host) = action.host.clone().filter(|host| !host.is_empty()).or_else(|| target.pod_ip.clone())
    else {
        return Outcome::Errored("the pod has no address yet".to_owned());
    };
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let authority = authority(&host, port);
    let url = format!("http{}://{authority}{slash}{path}", if secure { "s" } else { "" });
    let stream = match TcpStream::connect((host.as_str(), port)).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Failed(format!("Get \"{url}\": {}", dial_error(&authority, &error))),
    };
    let mut request = http::Request::get(format!("{slash}{path}"))
        .header(http::header::HOST, &authority)
        .header(http::header::USER_AGENT, "kube-probe/1.36")
        .header(http::header::ACCEPT, "*/*")
        .header(http::header::CONNECTION, "close");
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host")
            && let Some(headers) = request.headers_mut()
        {
            headers.remove(http::header::HOST);
        }
        request = request.header(&header.name, &header.value);
    }
    let request = match request.body(Empty::<Bytes>::new()) {
        Ok(request) => request,
        Err(error) => return Outcome::Errored(format!("Get \"{url}\": {error}")),
    };
    let answer = if secure {
        match tls::connect_unverified(&host, stream).await {
            Ok(stream) => exchange(stream, request).await,
            Err(error) => Err(error.to_string()),
        }
    } else {
        exchange(stream, request).await
    };
    match answer {
        Ok(status) if (200..400).contains(&status) => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("HTTP probe failed with statuscode: {status}")),
        Err(text) => Outcome::Failed(format!("Get \"{url}\": {text}")),
    }
}

/// One request on a fresh connection; the answer's body is read up to a bound and dropped.
async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    let status = match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let _ = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            Ok(status)
        }
        Err(text) => Err(text),
    };
    driver.abort();
    status
}

async fn tcp(target: &Target, action: &TCPSocketAction) -> Outcome {
    let Some(port) = port(&action.port, &target.container) else {
        return Outcome::Errored(format!("port {:?} is none of the container's", action.port));
    };
    let Some(host) = action.host.clone().filter(|host| !host.is_empty()).or_else(|| target.pod_ip.clone())
    else {
        return Outcome::Errored("the pod has no address yet".to_owned());
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Outcome::Passed,
        Err(error) => Outcome::Failed(dial_error(&authority(&host, port), &error)),
    }
}

fn dial_error(authority: &str, error: &std::io::Error) -> String {
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {authority}: {text}")
}

fn authority(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// A number, or the name of one of the container's ports.
fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
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

    async fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0_u8; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn an_http_probe_passes_below_400_and_names_the_status_otherwise() {
        let action = |path: &str| -> HTTPGetAction {
            serde_json::from_value(json!({"port": "web", "path": path})).unwrap()
        };
        let port = serve("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(http_get(&target(port), &action("/x")).await, Outcome::Passed);
        let port = serve("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
        let failed = Outcome::Failed("HTTP probe failed with statuscode: 503".to_owned());
        assert_eq!(http_get(&target(port), &action("x")).await, failed);
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action: TCPSocketAction = serde_json::from_value(json!({"port": port})).unwrap();
        assert_eq!(tcp(&target(port), &action).await, Outcome::Passed);
        drop(listener);
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp(&target(port), &action).await, Outcome::Failed(text));
    }
}
