//! Where the checks touch the world.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{Request, header};
use jiff::Timestamp;
use kube::client::Body;
use skerry_client::Client;
use skerry_dns::forward::address_of;
use skerry_vocabulary::chain;

use super::DoctorArgs;
use crate::{cli::Maps, paths::Paths, preflight, supervise};

/// How long an answer for a name may take, and how often it is asked for: datagrams get lost.
const NAME_LIMIT: Duration = Duration::from_secs(2);
const NAME_TRIES: usize = 3;

/// An answer of the API server.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// As its clock has it, to the second.
    pub date: Option<Timestamp>,
}

/// Of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    pub bytes: u64,
    pub free_inodes: u64,
    /// 0: it has none to run out of.
    pub inodes: u64,
    /// The same for what lies on the same one.
    pub device: u64,
}

/// Roles that have a process here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Up,
    Server,
    Node,
    Dns,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Up, Role::Server, Role::Node, Role::Dns];

    pub fn name(self) -> &'static str {
        match self {
            Role::Up => "up",
            Role::Server => "server",
            Role::Node => "node",
            Role::Dns => "dns",
        }
    }
}

/// Everything that the checks ask of the machine and of the cluster. Errors are texts for people.
pub trait Edges: Sync {
    /// From the API server; an answer with any status is one.
    fn get(&self, path: &str) -> impl Future<Output = Result<Answer, String>>;
    /// The first address that `server` answers for a name.
    fn resolve(&self, server: IpAddr, name: &str) -> impl Future<Output = Result<IpAddr, String>>;
    fn room(&self, path: &Path) -> impl Future<Output = io::Result<Room>>;
    fn read(&self, path: &Path) -> io::Result<String>;
    fn now(&self) -> Timestamp;
    /// The process that has the role; `None`: nobody.
    fn holder(&self, role: Role) -> Result<Option<i32>, String>;
    /// Whether the role has ever been here.
    fn was_here(&self, role: Role) -> bool;
    /// What [`preflight`] says of the kernel.
    fn kernel(&self) -> Result<(), String>;
    fn has_cgroup2(&self) -> Result<bool, String>;
    fn containerd(&self) -> Result<(), String>;
    fn firewall(&self) -> impl Future<Output = Vec<String>>;
    /// Whether the pinned maps are of our version.
    fn maps(&self) -> Result<(), String>;
}

pub struct Real {
    client: Result<Client, String>,
    args: DoctorArgs,
}

impl Real {
    pub async fn new(args: &DoctorArgs) -> Real {
        let client = args.api.client().await.map_err(|error| format!("{error:#}"));
        Real { client, args: args.clone() }
    }
}

impl Edges for Real {
    async fn get(&self, path: &str) -> Result<Answer, String> {
        let client = self.client.clone()?;
        let request = Request::get(path).body(Body::empty()).map_err(|error| error.to_string())?;
        let response = client.send(request).await.map_err(|error| chain(&error))?;
        let (parts, body) = response.into_parts();
        let date = parts.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
        let body = body.collect_bytes().await.map_err(|error| chain(&error))?;
        Ok(Answer { status: parts.status.as_u16(), body: String::from_utf8_lossy(&body).into_owned(), date })
    }

    async fn resolve(&self, server: IpAddr, name: &str) -> Result<IpAddr, String> {
        let mut failed = String::new();
        for _ in 0..NAME_TRIES {
            match address_of((server, 53).into(), name, NAME_LIMIT).await {
                Ok(address) => return Ok(address),
                Err(error) => failed = chain(&error),
            }
        }
        Err(failed)
    }

    async fn room(&self, path: &Path) -> io::Result<Room> {
        let path = path.to_owned();
        let look = move || {
            let stat = nix::sys::statvfs::statvfs(&path)?;
            let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&path)?);
            Ok(Room {
                free_bytes: stat.blocks_available() * stat.fragment_size(),
                bytes: stat.blocks() * stat.fragment_size(),
                free_inodes: stat.files_available(),
                inodes: stat.files(),
                device,
            })
        };
        tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn holder(&self, role: Role) -> Result<Option<i32>, String> {
        let lock = Paths(&self.args.folders).lock(role.name());
        supervise::holder(&lock).map_err(|error| format!("{error:#}"))
    }

    fn was_here(&self, role: Role) -> bool {
        Paths(&self.args.folders).lock(role.name()).exists()
    }

    fn kernel(&self) -> Result<(), String> {
        preflight::kernel().map_err(|error| format!("{error:#}"))
    }

    fn has_cgroup2(&self) -> Result<bool, String> {
        let mount = skerry_kernel::cgroup2_mount().map_err(|error| chain(&error))?;
        Ok(mount.is_some())
    }

    fn containerd(&self) -> Result<(), String> {
        preflight::containerd(&self.args.containerd_socket).map_err(|error| format!("{error:#}"))
    }

    async fn firewall(&self) -> Vec<String> {
        tokio::task::spawn_blocking(preflight::warnings).await.unwrap_or_default()
    }

    fn maps(&self) -> Result<(), String> {
        Maps::open(&self.args.pin_root).map(drop).map_err(|error| format!("{error:#}"))
    }
}

/// The folders that fill up.
pub fn folders(args: &DoctorArgs) -> [PathBuf; 4] {
    [
        args.folders.data_dir.clone(),
        args.folders.run_dir.clone(),
        "/var/lib/containerd".into(),
        "/var/log/pods".into(),
    ]
}
