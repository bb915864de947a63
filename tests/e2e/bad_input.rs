//! Bad input: refused with the field's name, and nothing is harmed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::world::World;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const API_PORT: u16 = 6443;

pub fn wrong_manifests(world: &World) -> Result<()> {
    let typed = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"wrong"},"spec":{"replicas":"three",
        "selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    refused(world, DEPLOYMENTS, typed, &["spec.replicas"])?;
    let value = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"wrong"},"spec":{"restartPolicy":"Sometimes",
        "containers":[{"name":"c","image":"i"}]}}"#;
    refused(world, "/api/v1/namespaces/default/pods", value, &["spec.restartPolicy", "Sometimes"])?;
    let nameless =
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Wrong_Name"},"spec":{"containers":[]}}"#;
    refused(world, "/api/v1/namespaces/default/pods", nameless, &["metadata.name", "spec.containers"])?;
    refused(world, DEPLOYMENTS, "{\"kind\": \"Deployment\", ", &["Error from server"])?;

    let unknown =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"warned"},"data":{},"dota":{}}"#;
    let mut apply = world.kubectl().command("apply --validate=warn -f");
    let file = temporary("unknown-field", unknown.as_bytes())?;
    let out = apply.arg(&file).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success() && said.contains("Warning") && said.contains("dota"), "{out:?}");
    let mut apply = world.kubectl().command("apply -f");
    let out = apply.arg(&file).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && said.contains("dota"), "strict validation let it pass: {out:?}");
    world.type_in("delete configmap warned")?;
    fs::remove_file(file)?;
    Ok(())
}

pub fn large_body(world: &World) -> Result<()> {
    let value = "x".repeat(4 << 20);
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"large"}},"data":{{"a":"{value}"}}}}"#
    );
    refused(world, "/api/v1/namespaces/default/configmaps", &body, &["Request entity too large", "3145728"])?;
    Ok(())
}

pub fn garbage(world: &World) -> Result<()> {
    let server = world.node("master")?;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 0, 0], &[0xff; 70_000], b""] {
        let mut stream = TcpStream::connect((server.ip(), API_PORT)).context("connect to the API server")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        // It may hang up in the middle: that is as it should be.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.take(1 << 16).read_to_end(&mut answer);
    }
    ensure!(world.type_in("get --raw=/readyz")?.trim() == "ok");
    world.type_in("get nodes").map(drop)
}

pub fn anonymous(world: &World) -> Result<()> {
    let server = world.node("master")?;
    let status = |path: &str| {
        let line =
            format!("curl -ks -o /dev/null -w '%{{http_code}}' https://{}:{API_PORT}{path}", server.ip());
        skerry_lab::run("sh", &["-c", &line])
    };
    for path in ["/api/v1/pods", "/apis", "/api/v1/namespaces/kube-system/secrets"] {
        ensure!(status(path)? == "401", "{path}: {}", status(path)?);
    }
    for path in ["/healthz", "/readyz", "/livez", "/version"] {
        ensure!(status(path)? == "200", "{path}: {}", status(path)?);
    }
    Ok(())
}

/// `kubectl create --raw`: the API server's own answer, without kubectl's checks before it.
fn refused(world: &World, path: &str, body: &str, expected: &[&str]) -> Result<()> {
    let file = temporary("body", body.as_bytes())?;
    let out = world.kubectl().command(&format!("create --raw {path} -f")).arg(&file).output()?;
    fs::remove_file(&file)?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(!out.status.success(), "it was taken: {said}");
    for word in expected {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }
    Ok(())
}

fn temporary(name: &str, content: &[u8]) -> Result<std::path::PathBuf> {
    let unique = format!("skerry-e2e-{}-{:?}-{name}.json", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(unique.replace(['(', ')'], ""));
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
