//! HTTP/1.1 as little as needed, on a connection of its own each time.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// A page that takes longer counts as failed.
const LIMIT: Duration = Duration::from_secs(3);
/// More than any page in the tests.
const MAX_BODY: u64 = 1 << 20;

/// `GET /` of `address` on a new connection: the body of a 200.
///
/// # Errors
/// When it can't be connected, does not answer within three seconds, or answers with another status.
pub fn get(address: SocketAddr) -> Result<String> {
    get_within(address, LIMIT)
}

/// Like [`get`], with another limit for connecting and for each read.
///
/// # Errors
/// As [`get`].
pub fn get_within(address: SocketAddr, limit: Duration) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(|| format!("ask {address}"))?;
    let mut answer = Vec::new();
    stream.take(MAX_BODY).read_to_end(&mut answer).with_context(|| format!("read from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{address} sent no answer"))?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{address} answered {status:?}");
    }
    Ok(body.to_owned())
}
