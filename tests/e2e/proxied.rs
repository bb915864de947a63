//! `services|pods|nodes/proxy`: requests that the API server passes on into the cluster, typed as `get --raw`
//! and through `kubectl proxy`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Result, ensure};
use skerry_tests::manifest;

use crate::{
    running::Running,
    world::{SOON, World},
};

const WELCOME: &str = "Welcome to nginx";

pub fn requests_are_passed_on(world: &World) -> Result<()> {
    let namespace = world.namespace("proxied")?;
    let ns = &namespace.name;
    world.type_in(&format!("apply -n {ns} -f {}", manifest("my-nginx-deployment.yaml")))?;
    world.type_in(&format!("apply -n {ns} -f {}", manifest("my-nginx-service.yaml")))?;
    let service = world.json(&format!("get services -n {ns}"))?["items"][0].clone();
    let (name, port) = (crate::world::name_of(&service), service["spec"]["ports"][0]["port"].clone());
    world.type_in(&format!("wait deployment --all -n {ns} --for=condition=Available --timeout=60s"))?;
    let base = format!("/api/v1/namespaces/{ns}");
    let pod = crate::world::name_of(&world.json(&format!("get pods -n {ns}"))?["items"][0]);
    for path in [
        format!("pods/{pod}/proxy/"),
        format!("pods/{pod}:80/proxy/index.html"),
        format!("pods/http:{pod}:80/proxy/"),
        format!("services/{name}:{port}/proxy/"),
        format!("services/http:{name}:{port}/proxy/index.html"),
        format!("services/{name}/proxy/"),
    ] {
        let page = world.type_in(&format!("get --raw {base}/{path}"))?;
        ensure!(page.contains(WELCOME), "{path}: {page}");
    }
    let refused = |path: &str| -> Result<String> {
        let out = world.kubectl().output(&format!("get --raw {base}/{path}"))?;
        ensure!(!out.status.success(), "{path}: {out:?}");
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let said = refused(&format!("services/{name}:9/proxy/"))?;
    ensure!(said.contains(&format!("no service port 9 found for service \"{name}\"")), "{said}");
    let said = refused(&format!("pods/{pod}:9/proxy/"))?;
    ensure!(said.contains("error trying to reach service") && said.contains("connection refused"), "{said}");
    let said = refused(&format!("pods/ftp:{pod}:21/proxy/"))?;
    ensure!(said.contains(&format!("invalid pod request \"ftp:{pod}:21\"")), "{said}");
    let said = refused("services/nobody/proxy/")?;
    ensure!(said.contains("services \"nobody\" not found"), "{said}");
    through_kubectl_proxy(world, &format!("{base}/services/{name}:{port}/proxy"))
}

/// `kubectl proxy` on a free port, until it is dropped.
struct Proxy {
    _kubectl: Running,
    address: String,
}

impl Proxy {
    fn start(world: &World) -> Result<Proxy> {
        let kubectl = world.begin("proxy --port=0")?;
        let said = kubectl.until("\n")?;
        let address = said.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(address.starts_with("127.0.0.1:"), "{said}");
        Ok(Proxy { _kubectl: kubectl, address })
    }

    /// The whole answer to one request.
    fn ask(&self, head: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn through_kubectl_proxy(world: &World, service: &str) -> Result<()> {
    let proxy = Proxy::start(world)?;
    let page = proxy.ask(&format!("GET {service}/ HTTP/1.1"))?;
    ensure!(page.starts_with("HTTP/1.1 200") && page.contains(WELCOME), "{page}");
    // A page asked for without its last slash would have links that lead elsewhere.
    let moved = proxy.ask(&format!("GET {service} HTTP/1.1"))?;
    ensure!(moved.starts_with("HTTP/1.1 301") && moved.contains(&format!("Location: {service}/")), "{moved}");
    let missing = proxy.ask(&format!("GET {service}/not-there HTTP/1.1"))?;
    ensure!(
        missing.starts_with("HTTP/1.1 404") && missing.contains("nginx"),
        "nginx's own answer: {missing}"
    );
    // What nginx does with it is its own: 405 for a body that is posted to a file.
    let posted = proxy.ask(&format!("POST {service}/index.html HTTP/1.1\r\nContent-Length: 0"))?;
    ensure!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    let head = proxy.ask(&format!("HEAD {service}/ HTTP/1.1"))?;
    ensure!(head.starts_with("HTTP/1.1 200") && !head.contains(WELCOME), "{head}");
    Ok(())
}
