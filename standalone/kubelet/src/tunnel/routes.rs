//! Which path does what, and which container is meant.

use std::sync::Arc;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use k8s_cri::v1;

use super::{
    dial, logs,
    query::{Query, parts},
    reply::{self, Refusal, Reply},
    streaming::{self, Session},
    told,
};
use crate::{agent::Agent, cri::CriError, pods::worker::container_of, spec::PodId};

/// Answers one exchange.
pub async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Reply {
    route(agent, request).await.unwrap_or_else(|refusal| refusal.reply())
}

async fn route(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let path = parts(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["healthz"] => Ok(reply::text(StatusCode::OK, "ok")),
        ["pods" | "metrics" | "stats" | "usage" | "timeline", ..] => {
            told::answer(agent, &path, &query, request.method()).await
        }
        ["dial", "node", port] => dial::node(agent, port, request).await,
        ["dial", "pod", namespace, pod, uid, port] => {
            dial::pod(agent, dial::PodPort { namespace, pod, uid, port }, request).await
        }
        ["containerLogs", namespace, pod, container] => {
            logs::answer(agent, Place { namespace, pod, container }, &query, request).await
        }
        ["exec", namespace, pod, container] => {
            let place = Place { namespace, pod, container };
            let session = session(&query)?;
            let id = running(agent, place).await?;
            let exec = v1::ExecRequest {
                container_id: id,
                cmd: query.all("command"),
                tty: session.tty,
                stdin: session.stdin,
                stdout: session.stdout,
                stderr: session.stderr,
            };
            let url = agent.cri.exec_url(exec).await.map_err(runtime)?;
            streaming::session(&url, request, session).await
        }
        ["attach", namespace, pod, container] => {
            let place = Place { namespace, pod, container };
            let session = Session { stays_open: stays_open(agent, place), ..session(&query)? };
            let id = running(agent, place).await?;
            let attach = v1::AttachRequest {
                container_id: id,
                tty: session.tty,
                stdin: session.stdin,
                stdout: session.stdout,
                stderr: session.stderr,
            };
            let url = agent.cri.attach_url(attach).await.map_err(runtime)?;
            streaming::session(&url, request, session).await
        }
        ["portForward", namespace, pod] => {
            let ports = query.ports("port").map_err(Refusal::BadRequest)?;
            streaming::check_ports(request.headers(), &ports)?;
            let sandbox = sandbox(agent, namespace, pod).await?;
            let url = agent.cri.port_forward_url(&sandbox, ports.clone()).await.map_err(runtime)?;
            streaming::port_forward(&url, request, &ports).await
        }
        _ => Err(Refusal::NotFound(format!("the node agent has no {}", request.uri().path()))),
    }
}

/// Which streams the client asked for. A terminal has no separate standard error.
fn session(query: &Query) -> Result<Session, Refusal> {
    let tty = query.flag(&["tty"]);
    let session = Session {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]) && !tty,
        tty,
        stays_open: false,
    };
    if !(session.stdin || session.stdout || session.stderr) {
        return Err(Refusal::BadRequest("you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    }
    Ok(session)
}

/// Whether the container's input outlives this client's: containerd closes it only with `stdinOnce`, and
/// never a terminal.
fn stays_open(agent: &Agent, place: Place<'_>) -> bool {
    let is_meant = |id: &PodId| id.namespace == place.namespace && id.name == place.pod;
    let pods = agent.pods();
    let pod = pods.iter().map(|(pod, _)| pod).find(|pod| is_meant(&PodId::of(pod)));
    let container = pod.and_then(|pod| container_of(pod, place.container));
    container.is_some_and(|container| container.stdin_once != Some(true) || container.tty == Some(true))
}

/// Which container of which pod.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
}

/// The running instance's id.
async fn running(agent: &Agent, place: Place<'_>) -> Result<String, Refusal> {
    let Place { namespace, pod, container } = place;
    let found = agent.cri.find_containers(namespace, pod, container).await.map_err(runtime)?;
    let running = v1::ContainerState::ContainerRunning as i32;
    match found.into_iter().find(|found| found.state == running) {
        Some(found) => Ok(found.id),
        None => {
            Err(Refusal::NotFound(format!("container not found (\"{container}\") in pod {pod}_{namespace}")))
        }
    }
}

async fn sandbox(agent: &Agent, namespace: &str, pod: &str) -> Result<String, Refusal> {
    let found = agent.cri.find_sandboxes(namespace, pod).await.map_err(runtime)?;
    let ready = v1::PodSandboxState::SandboxReady as i32;
    match found.into_iter().find(|found| found.state == ready) {
        Some(found) => Ok(found.id),
        None => Err(Refusal::NotFound(format!("pod {pod}_{namespace} has no running sandbox"))),
    }
}

pub fn runtime(error: CriError) -> Refusal {
    if error.is_unavailable() {
        return Refusal::Unavailable(format!(
            "the container runtime does not answer: {}",
            error.runtime_message()
        ));
    }
    Refusal::Internal(error.runtime_message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_streams_is_refused() {
        let asked = |query: &str| session(&Query::parse(query)).map_err(|refusal| refusal.to_string());
        let none = Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        for query in ["", "tty=1", "tty=1&error=1", "input=0"] {
            assert_eq!(asked(query), none, "{query}");
        }
        let stdin = Session { stdin: true, stdout: false, stderr: false, tty: false, stays_open: false };
        assert_eq!(asked("input=1"), Ok(stdin));
    }
}
