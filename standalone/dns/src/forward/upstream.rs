use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_net::{
    NetError,
    runtime::TokioRuntimeProvider,
    tcp::TcpClientStream,
    udp::UdpClientStream,
    xfer::{DnsRequestSender, FirstAnswer},
};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, Query};

use crate::message::DATAGRAM_BYTES;

/// Failures one after the other after which a server is only tried for its health.
const PATIENCE: u32 = 2;
/// How long a server that is down is left alone; doubled with each try.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("ask {server}")]
    Ask { server: SocketAddr, source: Box<NetError> },
    #[error("ask {server} by TCP")]
    AskByTcp { server: SocketAddr, source: Box<NetError> },
    #[error("{server} did not answer in {}ms", after.as_millis())]
    Silent { server: SocketAddr, after: Duration },
}

/// One resolver that is asked.
#[derive(Debug)]
pub struct Upstream {
    pub server: SocketAddr,
    health: Mutex<Health>,
    /// What it is asked comes back to us.
    loops: AtomicBool,
}

#[derive(Debug)]
struct Health {
    failures: u32,
    rest: Duration,
    /// Of one that is down: when it may be tried again.
    again_at: Option<Instant>,
}

impl Upstream {
    pub fn new(server: SocketAddr) -> Upstream {
        let health = Health { failures: 0, rest: REST_MIN, again_at: None };
        Upstream { server, health: Mutex::new(health), loops: AtomicBool::new(false) }
    }

    pub fn loops(&self) -> bool {
        self.loops.load(Ordering::Relaxed)
    }

    pub fn set_loops(&self) {
        self.loops.store(true, Ordering::Relaxed);
    }

    pub fn is_down(&self) -> bool {
        self.health().again_at.is_some()
    }

    /// Whether it is to be asked now: it is well, or it is time to see whether it is well again; that is
    /// asked for by one query at a time.
    pub fn take_turn(&self, now: Instant) -> bool {
        let mut health = self.health();
        match health.again_at {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                health.again_at = Some(now + health.rest);
                health.rest = (health.rest * 2).min(REST_MAX);
                true
            }
        }
    }

    /// How it did; `true` where that made it come up or go down.
    pub fn note(&self, is_well: bool, now: Instant) -> bool {
        let mut health = self.health();
        let was_down = health.again_at.is_some();
        if is_well {
            *health = Health { failures: 0, rest: REST_MIN, again_at: None };
        } else {
            health.failures = health.failures.saturating_add(1);
            if health.failures >= PATIENCE && !was_down {
                health.again_at = Some(now + health.rest);
            }
        }
        was_down != health.again_at.is_some()
    }

    /// Asks once, from a port, with an id and in capitals that nobody can guess (RFC 5452;
    /// draft-vixie-dnsext-dns0x20), and by TCP what a datagram can't carry, or what came back with other
    /// capitals.
    ///
    /// # Errors
    /// When it does not answer in time, or not properly.
    pub async fn ask(
        &self,
        query: &Query,
        dnssec_ok: bool,
        checking_disabled: bool,
        patience: Duration,
    ) -> Result<Message, UpstreamError> {
        let asked =
            tokio::time::timeout(patience, self.exchange(query, dnssec_ok, checking_disabled, patience));
        asked.await.unwrap_or(Err(UpstreamError::Silent { server: self.server, after: patience }))
    }

    async fn exchange(
        &self,
        query: &Query,
        dnssec_ok: bool,
        checking_disabled: bool,
        patience: Duration,
    ) -> Result<Message, UpstreamError> {
        let server = self.server;
        let provider = TokioRuntimeProvider::new();
        let mut udp = UdpClientStream::builder(server, provider.clone())
            .with_timeout(Some(patience))
            .with_max_retries(0)
            .build();
        let request = request(query, dnssec_ok, checking_disabled, true);
        let failed = |source| UpstreamError::Ask { server, source: Box::new(source) };
        match udp.send_message(request).first_answer().await {
            Ok(response) if !response.metadata.truncation => return Ok(parts(response)),
            Ok(_) | Err(NetError::QueryCaseMismatch) => {}
            Err(error) => return Err(failed(error)),
        }
        let failed = |source| UpstreamError::AskByTcp { server, source: Box::new(source) };
        let exchange =
            TcpClientStream::exchange(server, None, patience, None, provider).await.map_err(failed)?;
        let request = self::request(query, dnssec_ok, checking_disabled, false);
        let response =
            hickory_net::DnsHandle::send(&exchange, request).first_answer().await.map_err(failed)?;
        Ok(parts(response))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(query: &Query, dnssec_ok: bool, checking_disabled: bool, by_datagram: bool) -> DnsRequest {
    let mut message = Message::query();
    let mut asked = query.clone();
    if by_datagram {
        asked.name.randomize_label_case();
    }
    message.add_query(asked);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = checking_disabled;
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES).set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    let mut options = DnsRequestOptions::default();
    options.case_randomization = by_datagram;
    DnsRequest::new(message, options).with_original_query(Some(query.clone()))
}

fn parts(response: DnsResponse) -> Message {
    response.into_message()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_ever_more_rarely() {
        let upstream = Upstream::new("192.0.2.1:53".parse().unwrap());
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(upstream.take_turn(at(0)) && !upstream.note(false, at(0)));
        assert!(upstream.take_turn(at(0)) && upstream.note(false, at(0)));
        assert!(upstream.is_down());
        // One query tries it after 1 s; the next may after 1 s more, then 2, 4 …
        let turns: Vec<u64> = (0..20).filter(|second| upstream.take_turn(at(*second))).collect();
        assert_eq!(turns, [1, 2, 4, 8, 16]);
        assert!(upstream.note(true, at(20)) && !upstream.is_down() && upstream.take_turn(at(20)));
    }
}
