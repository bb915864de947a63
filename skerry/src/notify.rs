//! How a process tells its supervisor that it is ready: sd_notify(3), by a datagram to the socket that
//! `NOTIFY_SOCKET` names. `skerry up` listens for its children; under systemd a unit may say `Type=notify`.

use std::{
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{ffi::OsStrExt, net},
    },
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::UnixDatagram;

pub const VARIABLE: &str = "NOTIFY_SOCKET";
const READY: &[u8] = b"READY=1";

/// The way to the supervisor. Made before privileges are dropped: to connect needs the right to write to the
/// socket.
pub struct Supervisor(Option<net::UnixDatagram>);

impl Supervisor {
    /// Without a supervisor that listens, nothing is told.
    pub fn from_env() -> Self {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        let connect = || {
            let socket = net::UnixDatagram::unbound()?;
            match name.as_bytes() {
                [b'@', name @ ..] => socket.connect_addr(&net::SocketAddr::from_abstract_name(name)?)?,
                _ => socket.connect(&name)?,
            }
            Ok(socket)
        };
        let connected: std::io::Result<_> = connect();
        Self(connected.inspect_err(|error| tracing::warn!(?name, %error, "reach the supervisor")).ok())
    }

    pub fn ready(&self) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(READY)
        {
            tracing::warn!(%error, "tell the supervisor");
        }
    }
}

/// Where a supervisor hears of one child at a time.
pub struct Ear {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Ear {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        // What a supervisor that was killed has left.
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("listen at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), socket })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when a child says that it is ready.
    pub async fn ready(&self) {
        let mut buffer = [0; 256];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(length) if says_ready(&buffer[..length]) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "listen to a child");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Takes what has been said up to now; whether it was that.
    pub fn heard_ready(&self) -> bool {
        let (mut buffer, mut heard) = ([0; 256], false);
        // Not through the runtime, which may not have noticed yet that there is something.
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            heard |= says_ready(&buffer[..length]);
        }
        heard
    }
}

fn says_ready(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line == READY)
}

impl Drop for Ear {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "remove the socket");
        }
    }
}
