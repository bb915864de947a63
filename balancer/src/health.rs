//! Which backends live: a judge that counts answers, and the probes.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::AbortHandle,
};

use crate::{
    config::{Backend, Check, Vip, WhenAllDown},
    neighbours,
};

/// Who is asked, and how: one probe for all virtual addresses that ask the same.
pub type Target = (SocketAddr, Check);

/// The target of a virtual address's backend; `None`: it is not probed.
pub fn target(vip: &Vip, backend: SocketAddr) -> Option<Target> {
    let check = vip.check.as_ref()?;
    Some((SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port())), check.clone()))
}

/// The backends that get new flows: those that live; where none does, whom the virtual address says. `true`:
/// none lives.
pub fn chosen(vip: &Vip, lives: impl Fn(SocketAddr) -> bool) -> (Vec<&Backend>, bool) {
    let living: Vec<&Backend> = vip.backends.iter().filter(|backend| lives(backend.address)).collect();
    let is_any = !living.is_empty() || vip.backends.is_empty();
    match vip.when_all_down {
        WhenAllDown::All if !is_any => (vip.backends.iter().collect(), true),
        _ => (living, !is_any),
    }
}

/// The probes that run and what is believed of whom they ask. They end with this value.
#[derive(Debug)]
pub struct Probes {
    judges: HashMap<Target, (Judge, AbortHandle)>,
    /// Backends without a probe, whom nothing else would make the kernel find on their link.
    resolved: HashSet<IpAddr>,
    answers: mpsc::Sender<(Target, bool)>,
}

impl Probes {
    pub fn new(answers: mpsc::Sender<(Target, bool)>) -> Probes {
        Probes { judges: HashMap::new(), resolved: HashSet::new(), answers }
    }

    /// Probes for these virtual addresses and no others. Those that run go on; a new one takes over what is
    /// believed of whom it asks, if another was asked there.
    pub fn aim(&mut self, vips: &[Vip]) {
        let (mut targets, mut unasked) = (HashSet::new(), HashSet::new());
        for (vip, backend) in vips.iter().flat_map(|vip| vip.backends.iter().map(move |b| (vip, b.address))) {
            match target(vip, backend) {
                Some(target) => drop(targets.insert(target)),
                None => drop(unasked.insert(backend.ip())),
            }
        }
        let believed: HashMap<SocketAddr, Judge> =
            self.judges.iter().map(|((to, _), (judge, _))| (*to, *judge)).collect();
        self.judges.retain(|target, (_, task)| {
            let stays = targets.contains(target);
            if !stays {
                task.abort();
            }
            stays
        });
        for target in
            targets.into_iter().filter(|target| !self.judges.contains_key(target)).collect::<Vec<_>>()
        {
            let judge = believed.get(&target.0).copied().unwrap_or_else(Judge::new);
            let (asked, answers) = (target.clone(), self.answers.clone());
            let task = tokio::spawn(watch(target.0, target.1.clone(), async move |answered| {
                answers.send((asked.clone(), answered)).await.is_ok()
            }));
            self.judges.insert(target, (judge, task.abort_handle()));
        }
        for ip in unasked.difference(&self.resolved) {
            tokio::spawn(neighbours::resolve(*ip));
        }
        self.resolved = unasked;
    }

    /// Takes an answer, which may come from a probe that has just been ended; whether a belief has changed.
    pub fn hear(&mut self, target: &Target, answered: bool) -> bool {
        self.judges.get_mut(target).is_some_and(|(judge, _)| judge.hear(&target.1, answered))
    }

    pub fn lives(&self, vip: &Vip, backend: SocketAddr) -> bool {
        let judge = target(vip, backend).and_then(|target| self.judges.get(&target));
        judge.is_none_or(|(judge, _)| judge.lives)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.judges.values().for_each(|(_, task)| task.abort());
    }
}

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

/// Probes until nobody listens. The first one goes out at once, the others by the interval, whatever each of
/// them took.
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
    fn where_no_backend_lives_all_are_tried_unless_it_is_forbidden() {
        let backend = |n: u8| Backend { address: SocketAddr::from(([10, 0, 0, n], 80)), weight: 1 };
        let mut vip = Vip {
            address: "192.0.2.1:80".parse().unwrap(),
            proto: proxy_abi::proto::TCP,
            is_direct: false,
            maglev: 0,
            allowed: None,
            backends: vec![backend(1), backend(2)],
            check: None,
            when_all_down: WhenAllDown::All,
        };
        let told = |vip: &Vip, living: &[u8]| {
            let (chosen, is_down) = chosen(vip, |to| living.iter().any(|n| backend(*n).address == to));
            (chosen.iter().map(|backend| backend.address).collect::<Vec<_>>(), is_down)
        };
        let [one, two] = [1, 2].map(|n| backend(n).address);
        assert_eq!(told(&vip, &[1]), (vec![one], false));
        assert_eq!(told(&vip, &[]), (vec![one, two], true));
        vip.when_all_down = WhenAllDown::None;
        assert_eq!(told(&vip, &[]), (vec![], true));
        vip.backends.clear();
        assert_eq!(told(&vip, &[]), (vec![], false), "nobody is there to be down");
    }

    #[test]
    fn statuses_from_200_to_399_are_successes() {
        for (head, good) in [(b"HTTP/1.1 200", true), (b"HTTP/1.0 302", true), (b"HTTP/1.1 503", false)] {
            assert_eq!(is_success(head), good);
        }
        assert!(!is_success(b"SSH-2.0-Open"));
    }
}
