//! One probe or lifecycle hook, run once: exec, HTTP, TCP.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, ExecAction, LifecycleHandler, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use super::{grpc::grpc, http_get::http_get};
use crate::agent::Agent;

/// What is read of a probe's answer; upstream's bound as well.
pub(super) const ANSWER_LIMIT: usize = 10 << 10;

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
    /// It passed, in a way that its author may not have meant.
    Warned(String),
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
        } else if let Some(action) = &probe.grpc {
            grpc(target, action).await
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
        Ok(Outcome::Passed | Outcome::Warned(_)) => None,
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

pub(super) fn dial_error(authority: &str, error: &std::io::Error) -> String {
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {authority}: {text}")
}

pub(super) fn authority(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// A number, or the name of one of the container's ports.
pub(super) fn port(port: &IntOrString, container: &Container) -> Option<u16> {
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
    use tokio::net::TcpListener;

    use super::*;

    fn target(port: u16) -> Target {
        let ports = json!([{"name": "web", "containerPort": port}]);
        Target {
            container_id: String::new(),
            container: serde_json::from_value(json!({"name": "c", "ports": ports})).unwrap(),
            pod_ip: Some("127.0.0.1".to_owned()),
        }
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
