//! Logs, exec and port-forward with the real kubectl, through the API server and the node's tunnel.

use std::{
    io::{Read as _, Write as _},
    process::Stdio,
};

use crate::support::{Bed, able, condition, kubectl, run};
use anyhow::{Context as _, Result};
use serde_json::json;

const BUSYBOX: &str = "busybox";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kubectl_reads_logs_and_runs_commands() -> Result<()> {
    if !able("kubectl_reads_logs_and_runs_commands") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let script = "echo one; echo two; while :; do sleep 0.2; done";
    let mut http =
        json!({"name": "http", "image": BUSYBOX, "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"]});
    http["ports"] = json!([{"containerPort": 8080}]);
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}, http]});
    bed.create("p", spec).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    // The blocking commands below need the server that runs in this process.
    tokio::task::block_in_place(|| {
        let (code, out, err) = run(&bed, &["logs", "p", "-c", "c"])?;
        assert_eq!((code, out.as_str()), (0, "one\ntwo\n"), "{err}");
        let (_, out, _) = run(&bed, &["logs", "p", "-c", "c", "--tail", "1", "--timestamps"])?;
        assert!(out.ends_with(" two\n") && out.lines().count() == 1, "{out}");
        let (code, _, err) = run(&bed, &["logs", "p", "-c", "c", "--previous"])?;
        assert!(
            code == 1 && err.contains("previous terminated container \"c\" in pod \"p\" not found"),
            "{err}"
        );

        let (code, out, err) =
            run(&bed, &["exec", "p", "-c", "c", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!((code, out.as_str()), (7, "out\n"), "{err}");
        assert!(err.starts_with("err\n"), "{err}");

        // stdin that ends: `cat` must see the end and kubectl must come back.
        let mut cat = kubectl(&bed, &["exec", "-i", "p", "-c", "c", "--", "cat"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        cat.stdin.take().context("stdin")?.write_all(b"through and back")?;
        let mut text = String::new();
        cat.stdout.take().context("stdout")?.read_to_string(&mut text)?;
        assert!(cat.wait()?.success());
        assert_eq!(text, "through and back");

        // The same by SPDY, as older clients do it.
        let output = kubectl(&bed, &["exec", "p", "-c", "c", "--", "echo", "spdy"])?
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
            .output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "spdy\n", "{output:?}");

        let mut forward =
            kubectl(&bed, &["port-forward", "pod/p", ":8080"])?.stdout(Stdio::piped()).spawn()?;
        let mut line = Vec::new();
        let mut stdout = forward.stdout.take().context("stdout")?;
        let mut byte = [0];
        while !line.ends_with(b"\n") && stdout.read(&mut byte)? == 1 {
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let port: u16 =
            line.split(':').nth(1).and_then(|rest| rest.split(' ').next()).context("port")?.parse()?;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\r\np\n"), "{answer}");
        forward.kill()?;
        forward.wait()?;
        anyhow::Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_followed_log_ends_with_its_container() -> Result<()> {
    if !able("a_followed_log_ends_with_its_container") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let script = "echo begin; until [ -e /tmp/go ]; do sleep 0.05; done; echo end";
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]}]});
    bed.create("p", spec).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    tokio::task::block_in_place(|| {
        let mut follow = kubectl(&bed, &["logs", "-f", "p"])?.stdout(Stdio::piped()).spawn()?;
        let mut stdout = follow.stdout.take().context("stdout")?;
        let mut first = [0; 6];
        stdout.read_exact(&mut first)?;
        assert_eq!(&first, b"begin\n");
        let (code, _, err) = run(&bed, &["exec", "p", "--", "touch", "/tmp/go"])?;
        assert_eq!(code, 0, "{err}");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest)?;
        assert_eq!(rest, "end\n");
        assert!(follow.wait()?.success());
        anyhow::Ok(())
    })
}
