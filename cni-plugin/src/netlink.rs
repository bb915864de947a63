//! A synchronous route-netlink socket that sends several requests at once.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel's answers come in pieces of at most this many bytes (`NLMSG_GOODSIZE`, and 32 KiB for dumps).
const RECEIVE: usize = 32 << 10;
/// Datagrams that one batch or dump may take; a table that is larger is nothing that this plugin made.
const MAX_DATAGRAMS: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open a netlink socket")]
    Open { source: io::Error },
    #[error("{step}")]
    Refused { step: String, source: io::Error },
    #[error("{step}: talk to the kernel by netlink")]
    Transport { step: String, source: io::Error },
    #[error("{step}: the kernel's answer: {reason}")]
    Answer { step: String, reason: String },
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// One request, and words for what it does.
pub struct Step {
    pub what: String,
    pub message: RouteNetlinkMessage,
    /// `NLM_F_…` besides REQUEST and ACK.
    pub flags: u16,
}

pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Speaks to the calling thread's network namespace, also later from other ones.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Only the header of what was refused comes back, not the whole request.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Open { source })?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Sends all steps in one go and gives back what each was answered besides its acknowledgement. The
    /// kernel does them in order and does not stop at one that fails: the first failure is the error.
    pub fn run(&mut self, steps: &[Step]) -> Result<Vec<Option<RouteNetlinkMessage>>, NetlinkError> {
        let Some(first) = steps.first() else { return Ok(Vec::new()) };
        let base = self.sequence + 1;
        let mut request = Vec::new();
        for step in steps {
            self.sequence += 1;
            append(&mut request, step.message.clone(), step.flags | NLM_F_ACK, self.sequence);
        }
        self.send(&request, &first.what)?;
        let (mut answers, mut refused) = (vec![None; steps.len()], None);
        let mut open = steps.len();
        for _ in 0..MAX_DATAGRAMS {
            if open == 0 {
                return refused.map_or(Ok(answers), Err);
            }
            for message in self.receive(&first.what)? {
                let index = message.header.sequence_number.wrapping_sub(base) as usize;
                if index >= steps.len() {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers[index] = Some(answer),
                    NetlinkPayload::Error(error) => {
                        open -= 1;
                        if error.code.is_some() && refused.is_none() {
                            let (step, source) = (steps[index].what.clone(), error.to_io());
                            refused = Some(NetlinkError::Refused { step, source });
                        }
                    }
                    _ => {}
                }
            }
        }
        Err(NetlinkError::Answer { step: first.what.clone(), reason: "it does not end".into() })
    }

    /// All entries of a table of the kernel.
    pub fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence += 1;
        let mut request = Vec::new();
        append(&mut request, message, NLM_F_DUMP, self.sequence);
        self.send(&request, what)?;
        let mut entries = Vec::new();
        for _ in 0..MAX_DATAGRAMS {
            for message in self.receive(what)? {
                match message.payload {
                    _ if message.header.sequence_number != self.sequence => {}
                    NetlinkPayload::InnerMessage(entry) => entries.push(entry),
                    NetlinkPayload::Done(_) => return Ok(entries),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::Refused { step: what.to_owned(), source: error.to_io() });
                    }
                    _ => {}
                }
            }
        }
        Err(NetlinkError::Answer { step: what.to_owned(), reason: "it does not end".into() })
    }

    fn send(&self, request: &[u8], step: &str) -> Result<(), NetlinkError> {
        let sent = self.socket.send(request, 0);
        sent.map(drop).map_err(|source| NetlinkError::Transport { step: step.to_owned(), source })
    }

    /// The messages of one datagram.
    fn receive(&mut self, step: &str) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        self.buffer.clear();
        self.socket
            .recv(&mut self.buffer, 0)
            .map_err(|source| NetlinkError::Transport { step: step.to_owned(), source })?;
        let (mut messages, mut rest) = (Vec::new(), self.buffer.as_slice());
        while rest.len() >= size_of::<u32>() * 4 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| NetlinkError::Answer { step: step.to_owned(), reason: e.to_string() })?;
            messages.push(message);
            // `deserialize` has refused a length below the header's or beyond the buffer's.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn append(request: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = request.len();
    request.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut request[start..]);
}
