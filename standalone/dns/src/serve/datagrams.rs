use std::{
    collections::HashMap,
    io,
    net::UdpSocket,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use skerry_kernel::{Asker, Batch, send_answers};
use tokio::runtime::Handle;

use crate::{
    engine::{Engine, Seen, Step},
    message::Transport,
    metrics::{Counted, Dropped},
};

/// Datagrams that one system call brings.
const BATCH: usize = 32;
/// A question has 255 bytes of name and some of EDNS; what is longer is none of ours.
const MAX_QUESTION_BYTES: usize = 1232;

/// Answers what comes in on this socket, for ever, on the thread that calls it; what others have to be asked
/// for goes on in the runtime.
///
/// # Errors
/// The socket's.
pub fn serve_datagrams(engine: &Arc<Engine>, socket: UdpSocket, runtime: &Handle) -> io::Result<()> {
    skerry_kernel::answer_from_where_asked(&socket).map_err(io::Error::other)?;
    // What is renewed in time is asked for from here.
    let _in_runtime = runtime.enter();
    let socket = Arc::new(socket);
    let mut batch = Batch::new(BATCH, MAX_QUESTION_BYTES);
    let (mut bytes, mut ready): (Vec<u8>, Vec<(Asker, Range<usize>)>) = (Vec::new(), Vec::new());
    let mut counters = Counters { engine: engine.clone(), known: HashMap::new() };
    loop {
        match batch.receive(&socket) {
            Ok(()) => {}
            // What an earlier answer has met (ECONNREFUSED and its like) is told here.
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        }
        let began = Instant::now();
        bytes.clear();
        ready.clear();
        for (asker, packet) in batch.iter() {
            let Some(from) = asker.address() else { continue };
            match engine.ask(packet, from.ip(), Transport::Udp) {
                Step::Silence => {}
                Step::Now(answer, seen) => {
                    let start = bytes.len();
                    bytes.extend(answer);
                    ready.push((asker, start..bytes.len()));
                    counters.count(seen, began.elapsed());
                }
                Step::Later(pending) => {
                    let (engine, socket) = (engine.clone(), socket.clone());
                    runtime.spawn(async move {
                        let (answer, seen, took) = engine.finish(*pending).await;
                        counted(&engine, seen).count(took);
                        let unsent = send_answers(&socket, &[(asker, &answer)]);
                        (0..unsent).for_each(|_| engine.metrics().dropped(Dropped::Unsent));
                    });
                }
            }
        }
        let answers: Vec<(Asker, &[u8])> =
            ready.iter().map(|(asker, range)| (*asker, &bytes[range.clone()])).collect();
        let unsent = send_answers(&socket, &answers);
        (0..unsent).for_each(|_| engine.metrics().dropped(Dropped::Unsent));
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | Interrupted | NetworkUnreachable | WouldBlock
    )
}

pub(super) fn counted(engine: &Engine, seen: Seen) -> Counted {
    engine.metrics().counted(seen.whose, seen.transport, seen.is_v4, seen.kind, seen.code)
}

/// The counters that this thread has used: to find them by their labels costs more than to count.
struct Counters {
    engine: Arc<Engine>,
    known: HashMap<Seen, Counted>,
}

impl Counters {
    /// Types that somebody makes up are one in the metrics, and are not to fill this.
    const MOST: usize = 256;

    fn count(&mut self, seen: Seen, took: Duration) {
        if let Some(known) = self.known.get(&seen) {
            return known.count(took);
        }
        let fresh = counted(&self.engine, seen);
        fresh.count(took);
        if self.known.len() < Self::MOST {
            self.known.insert(seen, fresh);
        }
    }
}
