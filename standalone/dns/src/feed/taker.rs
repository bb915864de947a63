use std::{
    collections::HashSet,
    io::{self, BufReader, Read},
    net::{TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use super::{
    frame::{FrameError, Message, read_message},
    source::Listeners,
};
use crate::zone::Change;

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("connect to the agent at {path}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("take the sockets from the agent")]
    Take(#[from] skerry_kernel::Error),
    #[error("the agent handed over no socket for {0}")]
    Lacking(&'static str),
    #[error("read from the agent")]
    Frame(#[from] FrameError),
    #[error("the agent ended the connection")]
    Ended,
}

/// The DNS process' end.
#[derive(Debug)]
pub struct Taker {
    reader: BufReader<UnixStream>,
    buffer: Vec<u8>,
    /// What was said before [`Message::Complete`].
    named: Option<HashSet<(u8, Box<str>)>>,
}

/// What the agent has said.
#[derive(Debug)]
pub enum Said {
    Change(Change),
    /// That was everything: what is not among these is gone.
    Complete(HashSet<(u8, Box<str>)>),
}

impl Taker {
    /// Connects, and takes the sockets that the agent hands over.
    ///
    /// # Errors
    /// When the agent is not there, is another version, or hands over something else.
    pub fn connect(path: &Path) -> Result<(Taker, Listeners), FeedError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| FeedError::Connect { path: path.to_owned(), source })?;
        let mut first = [0; 1];
        let (length, mut taken) = skerry_kernel::take_descriptors(&stream, &mut first)?;
        if length == 0 {
            return Err(FeedError::Ended);
        }
        let streams = taken.pop().map(TcpListener::from).ok_or(FeedError::Lacking("streams"))?;
        let datagrams: Vec<UdpSocket> = taken.into_iter().map(|fd: OwnedFd| UdpSocket::from(fd)).collect();
        if datagrams.is_empty() {
            return Err(FeedError::Lacking("datagrams"));
        }
        let mut buffer = Vec::new();
        let hello = read_message(&mut first.chain(&stream), &mut buffer)?;
        if !matches!(hello, Some(Message::Hello(_))) {
            return Err(FeedError::Ended);
        }
        let reader = BufReader::with_capacity(64 << 10, stream);
        Ok((Taker { reader, buffer, named: Some(HashSet::new()) }, Listeners { datagrams, streams }))
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// The agent's end, or what is not understood.
    pub fn hear(&mut self) -> Result<Said, FeedError> {
        loop {
            match read_message(&mut self.reader, &mut self.buffer)?.ok_or(FeedError::Ended)? {
                Message::Change(change) => {
                    if let Some(named) = &mut self.named {
                        let (kind, key) = change.key();
                        named.insert((kind, key.into()));
                    }
                    return Ok(Said::Change(change));
                }
                Message::Complete => return Ok(Said::Complete(self.named.take().unwrap_or_default())),
                Message::Hello(_) => {}
            }
        }
    }

    /// Whether more is there already.
    pub fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }
}
