//! Exec, logs and port-forward as clients without kubectl speak them: WebSocket, in text and in binary
//! messages.

use crate::support::{Bed, able, condition};
use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{SinkExt as _, StreamExt as _};
use kube::{
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls_pki_types::ServerName;
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

const BUSYBOX: &str = "busybox";

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// `Err` holds the status and body of an answer that is no WebSocket.
async fn open(bed: &Bed, path: &str, protocols: &str) -> Result<std::result::Result<Socket, (u16, String)>> {
    let kubeconfig = Kubeconfig::read_from(&bed.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let host = config.cluster_url.host().context("a host")?.to_owned();
    let port = config.cluster_url.port_u16().context("a port")?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let connector = TlsConnector::from(Arc::new(config.rustls_client_config()?));
    let stream = connector.connect(ServerName::try_from(host.clone())?, stream).await?;
    let url = format!("wss://{host}:{port}/api/v1/namespaces/default/pods/p/{path}");
    let mut request = url.into_client_request()?;
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocols)?);
    }
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(Error::Http(answer)) => {
            let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
            Ok(Err((answer.status().as_u16(), body)))
        }
        Err(error) => bail!("{path}: {error}"),
    }
}

async fn socket(bed: &Bed, path: &str, protocols: &str) -> Result<Socket> {
    open(bed, path, protocols).await?.map_err(|refused| anyhow::anyhow!("{path}: {refused:?}"))
}

/// The next message that is not empty beside its channel.
async fn next(socket: &mut Socket) -> Result<Message> {
    loop {
        match socket.next().await.context("the end")?? {
            Message::Binary(bytes) if bytes.len() > 1 => return Ok(Message::Binary(bytes)),
            Message::Text(text) if text.len() > 1 => return Ok(Message::Text(text)),
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_kind_of_web_socket_are_understood() -> Result<()> {
    if !able("clients_of_every_kind_of_web_socket_are_understood") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let httpd = "httpd -p 8080 -h /etc; echo one; echo two; exec sleep 1000";
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", httpd]}]});
    bed.create("p", spec).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;

    // Standard input in text messages.
    let head = "exec?command=head&command=-n1&stdin=true&stdout=true&stderr=False";
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"] {
        let mut socket = socket(&bed, head, protocol).await?;
        socket.send(Message::text("\0in text\n")).await?;
        assert_eq!(next(&mut socket).await?, Message::binary("\u{1}in text\n"), "{protocol}");
    }
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let mut socket = socket(&bed, head, protocol).await?;
        socket.send(Message::text(format!("0{}", BASE64_STANDARD.encode("in text\n")))).await?;
        let expected = Message::text(format!("1{}", BASE64_STANDARD.encode("in text\n")));
        assert_eq!(next(&mut socket).await?, expected, "{protocol}");
    }

    // What can't be asked for is said in plain HTTP.
    let refused = [
        ("exec?command=ls", "you must specify at least 1 of stdin, stdout, stderr"),
        ("portforward?ports=abc", "cannot convert to []int32"),
        ("portforward?ports=0", "must be > 0"),
        ("portforward", "query parameter \\\"port\\\" is required"),
        ("log?tailLines=1", "are not supported"),
    ];
    for (path, why) in refused {
        let (status, body) = open(&bed, path, "v4.channel.k8s.io").await?.err().context(path)?;
        assert!(status == 400 && body.contains(why), "{path}: {status} {body}");
    }

    // A log in messages, to its end and as it grows.
    let mut log = socket(&bed, "log", "base64.binary.k8s.io").await?;
    assert_eq!(next(&mut log).await?, Message::text(BASE64_STANDARD.encode("one\ntwo\n")));
    assert!(matches!(log.next().await, Some(Ok(Message::Close(_)))));
    for protocol in ["binary.k8s.io", ""] {
        let mut log = socket(&bed, "log?follow=true&tailLines=1", protocol).await?;
        assert_eq!(next(&mut log).await?, Message::binary("two\n"), "{protocol}");
    }

    // Two ports over one connection: a pair of channels each, and first of all the port's number on each of
    // them.
    let mut forward = socket(&bed, "portforward?ports=8080,8081", "v4.channel.k8s.io").await?;
    let mut told = Vec::new();
    while told.len() < 4 {
        let Message::Binary(bytes) = next(&mut forward).await? else { bail!("no binary message") };
        told.push((bytes[0], u16::from_le_bytes([bytes[1], bytes[2]])));
    }
    told.sort_unstable();
    assert_eq!(told, [(0, 8080), (1, 8080), (2, 8081), (3, 8081)]);
    forward.send(Message::binary("\0GET /hostname HTTP/1.0\r\n\r\n")).await?;
    // Nobody listens on the second one: its own channel says so, and the first goes on.
    loop {
        let Message::Binary(answer) = next(&mut forward).await? else { bail!("no binary message") };
        if answer[0] != 3 {
            assert!(answer.starts_with(b"\0HTTP/1."), "{answer:?}");
            return Ok(());
        }
    }
}
