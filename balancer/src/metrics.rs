//! `/metrics` and `/healthz`, by a server that knows no more of HTTP than they need.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proxy_abi::Reason;
use skerry_announce::Count;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kernel::Maps;

/// What the loop knows; the counters are read from the maps.
#[derive(Clone, Default, Debug)]
pub struct State {
    /// Virtual address, protocol, backend, whether it lives.
    pub backends: Vec<(SocketAddr, &'static str, SocketAddr, bool)>,
    pub reloads: u64,
    pub refused_reloads: u64,
    pub flows_ended: u64,
    /// Changes that found no room for a set of backends.
    pub refused_changes: u64,
    /// Of a cluster's objects what is not served as they ask, by cause. `None`: no cluster is followed.
    pub left_out: Option<BTreeMap<&'static str, u64>>,
    /// Every kind of the cluster's objects was listed once.
    pub cluster_is_known: bool,
    pub watch_failures: u64,
    /// Addresses that are answered for on a link, and what was said there.
    pub answered_for: u64,
    pub announcements: u64,
    pub neighbour_answers: u64,
}

pub type Shared = Arc<Mutex<State>>;

/// Counts what is said on a link.
pub struct Counted(pub Shared);

impl Counted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count for Counted {
    fn answered_for(&self, addresses: usize) {
        self.state().answered_for = addresses as u64;
    }

    fn announced(&self) {
        self.state().announcements += 1;
    }

    fn answered(&self) {
        self.state().neighbour_answers += 1;
    }
}

const REQUEST_MAX: usize = 8_192;
const PATIENCE: Duration = Duration::from_secs(5);

pub async fn serve(listener: TcpListener, maps: Arc<Maps>, state: Shared) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer(stream, &maps, &state);
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, answer).await {
            tracing::debug!(%error, "connection for metrics");
        }
    }
}

async fn answer(mut stream: TcpStream, maps: &Maps, state: &Shared) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&request);
    let (status, body) = match line.split(' ').nth(1) {
        Some("/metrics") => {
            let known = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ("200 OK", text(&known, |reason| maps.counted(reason).unwrap_or_default()))
        }
        Some("/healthz") => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", "not found: /metrics, /healthz\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}

/// Prometheus' text format; `counted`: packets and bytes.
fn text(state: &State, counted: impl Fn(Reason) -> (u64, u64)) -> String {
    let mut text = String::new();
    let all: Vec<_> = Reason::ALL.iter().map(|reason| (reason.label(), counted(*reason))).collect();
    text.push_str("# TYPE skerry_lb_packets_total counter\n");
    for (reason, (packets, _)) in &all {
        let _ = writeln!(text, "skerry_lb_packets_total{{reason=\"{reason}\"}} {packets}");
    }
    text.push_str("# TYPE skerry_lb_bytes_total counter\n");
    for (reason, (_, bytes)) in &all {
        let _ = writeln!(text, "skerry_lb_bytes_total{{reason=\"{reason}\"}} {bytes}");
    }
    text.push_str("# TYPE skerry_lb_backend_up gauge\n");
    for (vip, protocol, backend, lives) in &state.backends {
        let _ = writeln!(
            text,
            "skerry_lb_backend_up{{vip=\"{vip}\",protocol=\"{protocol}\",backend=\"{backend}\"}} {}",
            u8::from(*lives)
        );
    }
    let answered_for = state.answered_for;
    let _ = writeln!(text, "# TYPE skerry_lb_announced gauge\nskerry_lb_announced {answered_for}");
    for (name, value) in [
        ("reloads", state.reloads),
        ("refused_reloads", state.refused_reloads),
        ("flows_ended", state.flows_ended),
        ("refused_changes", state.refused_changes),
        ("watch_failures", state.watch_failures),
        ("announcements", state.announcements),
        ("neighbour_answers", state.neighbour_answers),
    ] {
        let _ = writeln!(text, "# TYPE skerry_lb_{name}_total counter\nskerry_lb_{name}_total {value}");
    }
    if let Some(left_out) = &state.left_out {
        let known = u8::from(state.cluster_is_known);
        let _ = writeln!(text, "# TYPE skerry_lb_cluster_known gauge\nskerry_lb_cluster_known {known}");
        text.push_str("# TYPE skerry_lb_left_out gauge\n");
        for (cause, count) in left_out {
            let _ = writeln!(text, "skerry_lb_left_out{{cause=\"{cause}\"}} {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_and_reasons_are_told() {
        let vip = "192.0.2.1:80".parse().unwrap();
        let backends = vec![(vip, "TCP", "10.0.0.1:80".parse().unwrap(), false)];
        let text = text(
            &State { backends, left_out: Some([("address_taken", 2)].into()), ..State::default() },
            |_| (7, 700),
        );
        for line in [
            "skerry_lb_packets_total{reason=\"sent_out\"} 7\n",
            "skerry_lb_backend_up{vip=\"192.0.2.1:80\",protocol=\"TCP\",backend=\"10.0.0.1:80\"} 0\n",
            "skerry_lb_left_out{cause=\"address_taken\"} 2\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
