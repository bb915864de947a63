use std::{
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{
        Semaphore,
        broadcast::{Receiver, Sender, error::RecvError},
    },
};

/// The socket that `skerry flows` reads from could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {path}")]
pub struct AdminError {
    path: PathBuf,
    source: std::io::Error,
}

/// Name of the socket in the run folder.
pub(crate) const SOCKET: &str = "admin.sock";
/// People who look at once.
const MAX_CONNECTIONS: usize = 8;
/// Records that a slow reader may lag behind before it loses some.
pub(crate) const BACKLOG: usize = 4096;

/// One record, as a line of JSON without its end. Shared by all readers.
pub(crate) type Line = Arc<str>;

/// For root alone. One that an earlier agent left is replaced: the run folder's lock says that it is gone.
pub(crate) fn listen(run_dir: &Path) -> Result<UnixListener, AdminError> {
    let path = run_dir.join(SOCKET);
    let made = match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(&path).and_then(|listener| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        }),
    };
    made.map_err(|source| AdminError { path, source })
}

/// Writes every record to whoever is connected, until it is dropped.
pub(crate) async fn serve(listener: UnixListener, records: Sender<Line>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let records = records.subscribe();
                tokio::spawn(async move {
                    tell(stream, records).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection on the admin socket");
                return;
            }
        }
    }
}

/// Ends when the reader hangs up.
async fn tell(mut stream: UnixStream, mut records: Receiver<Line>) {
    loop {
        let mut nothing = [0; 1];
        let line = tokio::select! {
            record = records.recv() => match record {
                Ok(line) => line,
                Err(RecvError::Lagged(count)) => format!(r#"{{"lost":{count}}}"#).into(),
                Err(RecvError::Closed) => return,
            },
            // Nobody has anything to say to us: this is the end of the stream.
            _ = stream.read(&mut nothing) => return,
        };
        let written = stream.write_all(format!("{line}\n").as_bytes()).await;
        if written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncBufReadExt, BufReader},
        sync::broadcast,
    };

    #[tokio::test]
    async fn readers_get_each_record_and_are_told_what_they_missed() {
        let dir = tempfile::tempdir().unwrap();
        drop(listen(dir.path()).unwrap());
        let listener = listen(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let records = broadcast::Sender::new(2);
        let serving = tokio::spawn(serve(listener, records.clone()));
        let stream = UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        while records.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        for record in ["1", "2", "3"] {
            records.send(record.into()).unwrap();
        }
        let mut lines = BufReader::new(stream).lines();
        for expected in [r#"{"lost":1}"#, "2", "3"] {
            assert_eq!(lines.next_line().await.unwrap().unwrap(), expected);
        }
        serving.abort();
    }
}
