//! A server of NFS 3 in a network namespace, whose only file names it.

use std::thread::JoinHandle;

use async_trait::async_trait;
use nfsserve::{
    nfs::{fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3},
    tcp::{NFSTcp, NFSTcpListener},
    vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities},
};
use skerry_lab::Netns;
use tokio::sync::oneshot;

/// The file.
pub const WHO: &str = "who";
const ROOT_ID: fileid3 = 1;
const FILE_ID: fileid3 = 2;

pub struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens when this returns.
    pub fn start(netns: &Netns, port: u16, name: &'static str) -> Server {
        let (stop, stopped) = oneshot::channel();
        let (listens, is_listening) = std::sync::mpsc::channel();
        let netns = Netns::existing(netns.name());
        let serve = async move {
            let listener = NFSTcpListener::bind(&format!("0.0.0.0:{port}"), Named(name)).await.unwrap();
            listens.send(()).unwrap();
            tokio::select! {
                ended = listener.handle_forever() => panic!("{name} ended: {ended:?}"),
                _ = stopped => {}
            }
        };
        // Its connections end with the runtime.
        let run = move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve);
        };
        let thread = std::thread::spawn(move || netns.run(run).unwrap());
        is_listening.recv().unwrap();
        Server { stop, thread }
    }

    pub fn stop(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
    }
}

struct Named(&'static str);

impl Named {
    fn attributes(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        let (ftype, mode, size) = match id {
            ROOT_ID => (ftype3::NF3DIR, 0o755, 0),
            FILE_ID => (ftype3::NF3REG, 0o644, self.0.len() as u64),
            _ => return Err(nfsstat3::NFS3ERR_STALE),
        };
        // Another server's file has changed: what clients have read of the last one's is worth nothing.
        let changed = nfstime3 { seconds: self.0.bytes().map(u32::from).sum(), nseconds: 0 };
        Ok(fattr3 {
            ftype,
            mode,
            nlink: 1,
            size,
            used: size,
            fileid: id,
            mtime: changed,
            ctime: changed,
            ..fattr3::default()
        })
    }
}

#[async_trait]
impl NFSFileSystem for Named {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadOnly
    }

    fn root_dir(&self) -> fileid3 {
        ROOT_ID
    }

    async fn lookup(&self, dir: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        match (dir, name.as_ref()) {
            (ROOT_ID, b"." | b"..") => Ok(ROOT_ID),
            (ROOT_ID, name) if name == WHO.as_bytes() => Ok(FILE_ID),
            _ => Err(nfsstat3::NFS3ERR_NOENT),
        }
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        self.attributes(id)
    }

    async fn read(&self, id: fileid3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let content = if id == FILE_ID { self.0.as_bytes() } else { return Err(nfsstat3::NFS3ERR_ISDIR) };
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = &rest[..rest.len().min(count as usize)];
        Ok((read.to_vec(), read.len() == rest.len()))
    }

    async fn readdir(&self, _: fileid3, after: fileid3, _: usize) -> Result<ReadDirResult, nfsstat3> {
        let mut entries = Vec::new();
        if after < FILE_ID {
            entries.push(DirEntry {
                fileid: FILE_ID,
                name: WHO.as_bytes().into(),
                attr: self.attributes(FILE_ID)?,
            });
        }
        Ok(ReadDirResult { entries, end: true })
    }

    async fn setattr(&self, _: fileid3, _: sattr3) -> Result<fattr3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn write(&self, _: fileid3, _: u64, _: &[u8]) -> Result<fattr3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn create(&self, _: fileid3, _: &filename3, _: sattr3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn create_exclusive(&self, _: fileid3, _: &filename3) -> Result<fileid3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn mkdir(&self, _: fileid3, _: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn remove(&self, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn rename(&self, _: fileid3, _: &filename3, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn symlink(
        &self,
        _: fileid3,
        _: &filename3,
        _: &nfspath3,
        _: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn readlink(&self, _: fileid3) -> Result<nfspath3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_INVAL)
    }
}
