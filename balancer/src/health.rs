//! Which backends live: a judge that counts answers, and the probes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::Check;

/// What is believed of a backend. Without any answer yet it lives, and the first failure suffices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judge {
    pub lives: bool,
    seen: bool,
    /// Answers in a row that speak against what is believed.
    against: u32,
}

impl Judge {
    pub fn new() -> Judge {
        Judge { lives: true, seen: false, against: 0 }
    }

    /// Takes an answer; whether the belief has changed.
    pub fn hear(&mut self, check: &Check, answered: bool) -> bool {
        let first = !std::mem::replace(&mut self.seen, true);
        if answered == self.lives {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if self.lives { check.fall } else { check.rise };
        if self.against < needed && !first {
            return false;
        }
        self.lives = answered;
        self.against = 0;
        true
    }
}

/// One probe; `false` after the check's time-out at the latest.
pub async fn probe(backend: SocketAddr, check: &Check) -> bool {
    let to = SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port()));
    let asked = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let Some(path) = &check.path else { return Some(()) };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: skerry-lb\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        is_success(&head).then_some(())
    };
    matches!(tokio::time::timeout(check.timeout, asked).await, Ok(Some(())))
}

/// `HTTP/1.1 200`: 200 to 399 are successes, as for a kubelet's probes.
fn is_success(head: &[u8; 12]) -> bool {
    let status = std::str::from_utf8(&head[9..]).ok().and_then(|text| text.parse::<u16>().ok());
    head.starts_with(b"HTTP/1.") && status.is_some_and(|status| (200..400).contains(&status))
}

/// Probes until nobody listens. The first one goes out at once, the others by the interval, whatever each of them took.
pub async fn watch(backend: SocketAddr, check: Check, mut tell: impl AsyncFnMut(bool) -> bool) {
    let mut timer = tokio::time::interval(check.interval.max(Duration::from_millis(10)));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        if !tell(probe(backend, &check).await).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_falls_and_rises_by_answers_in_a_row() {
        let check = Check {
            path: None,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        };
        let mut judge = Judge::new();
        let heard: Vec<bool> = [true, false, false, true, false, false, false, true, false, true, true]
            .map(|answered| {
                judge.hear(&check, answered);
                judge.lives
            })
            .to_vec();
        let expected = [true, true, true, true, true, true, false, false, false, false, true];
        assert_eq!(heard, expected);
        let mut dead_from_the_start = Judge::new();
        assert!(dead_from_the_start.hear(&check, false) && !dead_from_the_start.lives);
    }

    #[test]
    fn statuses_from_200_to_399_are_successes() {
        for (head, good) in [(b"HTTP/1.1 200", true), (b"HTTP/1.0 302", true), (b"HTTP/1.1 503", false)] {
            assert_eq!(is_success(head), good);
        }
        assert!(!is_success(b"SSH-2.0-Open"));
    }
}
