//! Who has which address, on a file system that does not outlive the boot.
//!
//! ```text
//! STATE_DIR/BOOT_ID/lock                      taken (flock) while addresses are chosen
//! STATE_DIR/BOOT_ID/attachments/ID@IFNAME     a record: JSON, then a line with the ifindex once it is known
//! STATE_DIR/BOOT_ID/addresses/10.244.1.5      symlink whose target names the owner, ID@IFNAME
//! STATE_DIR/BOOT_ID/last/10.244.1.0_24        symlink to the address given last
//! ```
//!
//! Each step is one atomic call of the file system, so that a kill between any two leaves nothing that a DEL
//! by container id does not find: the record comes before its addresses and goes after them. An address
//! belongs to the one that its symlink names; a stale DEL sees that and leaves it alone. Whoever works on an
//! attachment holds a lock on its record, which ends with the process. After a reboot the folder of the old
//! boot id is swept away.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    pool::{PoolError, choose},
    range::Range,
};

/// How long to wait for others that choose addresses (each takes well under a millisecond).
const POOL_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for another call about the same attachment.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// There is no call that waits for a flock and gives up at a time.
const LOCK_PAUSE: Duration = Duration::from_micros(500);
/// A record is less than 4 KiB; what is larger is not ours.
const MAX_RECORD: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{operation} {path}", path = path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("lock {path}: another call held it for {seconds} s; try again", path = path.display())]
    Busy { path: PathBuf, seconds: u64 },
    #[error("container {container_id} has an interface {ifname} of this network already: DEL it first")]
    Exists { container_id: String, ifname: String },
    #[error("the boot's id in {path} is {found:?}, which is no name of a folder", path = path.display())]
    BootId { path: PathBuf, found: String },
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// An attachment, as it stands in its file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub container_id: String,
    pub ifname: String,
    pub network: String,
    pub netns: PathBuf,
    pub host_ifname: String,
    pub mac: String,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// `K8S_POD_NAMESPACE` and the like out of CNI_ARGS, for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod: BTreeMap<String, String>,
    /// Of the pod's network namespace, if its sockets are left alone; else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Of the host side. On a line of its own in the file, and 0 until the device is there.
    #[serde(default, skip_serializing)]
    pub host_ifindex: u32,
}

/// For `skip_serializing_if`, which wants a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A record that this process works on. The lock ends with it.
#[derive(Debug)]
pub struct Claim {
    pub key: String,
    /// `None`: the file is there and not readable as a record.
    pub record: Option<Record>,
    file: File,
}

pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The state of this boot, made if it is not there yet.
    pub fn open(state_dir: &Path, boot_id_file: &Path) -> Result<Store, StateError> {
        let boot_id = boot_id(boot_id_file)?;
        let store = Store { folder: state_dir.join(&boot_id) };
        let folders = ["attachments", "addresses", "last"].map(|name| store.folder.join(name));
        if !folders.iter().all(|folder| folder.is_dir()) {
            for folder in folders {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&folder)
                    .map_err(io("make folder", &folder))?;
            }
            sweep_other_boots(state_dir, &boot_id);
        }
        Ok(store)
    }

    /// The state of this boot, if anything was ever added.
    pub fn existing(state_dir: &Path, boot_id_file: &Path) -> Result<Option<Store>, StateError> {
        let folder = state_dir.join(boot_id(boot_id_file)?);
        Ok(folder.is_dir().then_some(Store { folder }))
    }

    /// Chooses addresses and writes them down. `is_dead` tells of a record whose pod is certainly gone: those
    /// are freed when nothing else is left. `is_used` tells of an address that packets are led to a pod by,
    /// whatever stands written here: what was written may have been lost.
    pub fn claim(
        &self,
        mut record: Record,
        ranges: &[Range],
        requested: &[IpAddr],
        is_dead: &dyn Fn(&Record) -> bool,
        is_used: &dyn Fn(IpAddr) -> bool,
    ) -> Result<Claim, StateError> {
        let key = crate::identity::key(&record.container_id, &record.ifname);
        let _lock = self.lock_pool()?;
        if self.record_path(&key).exists() {
            let (container_id, ifname) = (record.container_id, record.ifname);
            return Err(StateError::Exists { container_id, ifname });
        }
        let chosen = match self.choose(ranges, requested, is_used) {
            Err(StateError::Pool(PoolError::Full { .. })) if self.free_dead(is_dead)? > 0 => {
                self.choose(ranges, requested, is_used)?
            }
            result => result?,
        };
        record.addresses = chosen.iter().map(|(address, _)| *address).collect();
        let file = self.write_record(&key, &record)?;
        let claim = Claim { key, record: Some(record), file };
        for (address, range) in &chosen {
            if let Err(error) = self.take(&claim.key, *address, range) {
                // The first error is the one to tell of.
                let _ = self.release(&claim);
                return Err(error);
            }
        }
        Ok(claim)
    }

    /// Free addresses: neither written down nor used.
    fn choose(
        &self,
        ranges: &[Range],
        requested: &[IpAddr],
        is_used: &dyn Fn(IpAddr) -> bool,
    ) -> Result<Vec<(IpAddr, Range)>, StateError> {
        let mut taken = self.taken()?;
        // Ends: each round takes an address out of the ranges, which are finite, and a request but once.
        loop {
            let chosen = choose(ranges, requested, &taken, &|range| self.last(range))?;
            let used: Vec<IpAddr> =
                chosen.iter().map(|(address, _)| *address).filter(|address| is_used(*address)).collect();
            if used.is_empty() {
                return Ok(chosen);
            }
            taken.extend(used);
        }
    }

    /// Notes the host side's device number: a later DEL knows it even when the device is gone.
    pub fn note_ifindex(&self, claim: &mut Claim, ifindex: u32) -> Result<(), StateError> {
        let path = self.record_path(&claim.key);
        claim.file.write_all(format!("{ifindex}\n").as_bytes()).map_err(io("write", &path))?;
        if let Some(record) = &mut claim.record {
            record.host_ifindex = ifindex;
        }
        Ok(())
    }

    /// The record of an attachment, once whoever works on it is done.
    pub fn find(&self, key: &str) -> Result<Option<Claim>, StateError> {
        let deadline = Instant::now() + RECORD_PATIENCE;
        self.find_until(key, deadline)
    }

    /// As [`Store::find`]; `None` also when somebody works on it right now.
    pub fn find_idle(&self, key: &str) -> Result<Option<Claim>, StateError> {
        match self.find_until(key, Instant::now()) {
            Err(StateError::Busy { .. }) => Ok(None),
            result => result,
        }
    }

    /// A record as it stands, whoever works on it. `None`: gone, or no record.
    pub fn peek(&self, key: &str) -> Result<Option<Record>, StateError> {
        let path = self.record_path(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(parse_record)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io("read", &path)(e)),
        }
    }

    fn find_until(&self, key: &str, deadline: Instant) -> Result<Option<Claim>, StateError> {
        let path = self.record_path(key);
        loop {
            let mut file = match OpenOptions::new().read(true).append(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(io("open", &path)(e)),
            };
            lock_until(&file, &path, deadline, RECORD_PATIENCE)?;
            // Whoever had the lock may have removed the file meanwhile: then look again.
            let ours = file.metadata().map_err(io("ask about", &path))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                let mut text = String::new();
                let read = (&mut file).take(MAX_RECORD).read_to_string(&mut text);
                let record = read.ok().and_then(|_| parse_record(&text));
                return Ok(Some(Claim { key: key.to_owned(), record, file }));
            }
        }
    }

    /// Frees the addresses that still are the claim's own, then forgets it.
    pub fn release(&self, claim: &Claim) -> Result<(), StateError> {
        let addresses = match &claim.record {
            Some(record) => record.addresses.clone(),
            None => self.taken()?.into_iter().collect(),
        };
        for address in addresses {
            if self.owner(address).as_deref() == Some(claim.key.as_str()) {
                remove(&self.address_path(address))?;
            }
        }
        remove(&self.record_path(&claim.key))
    }

    /// Whether the address is the attachment's.
    pub fn owns(&self, key: &str, address: IpAddr) -> bool {
        self.owner(address).as_deref() == Some(key)
    }

    /// Whether the address may be the attachment's, whose record says so: no other has it.
    pub fn allows(&self, key: &str, address: IpAddr) -> bool {
        self.owner(address).is_none_or(|owner| owner == key)
    }

    /// All attachments, by key.
    pub fn keys(&self) -> Result<Vec<String>, StateError> {
        let mut keys = names(&self.folder.join("attachments"))?;
        keys.retain(|key| !key.starts_with('.'));
        Ok(keys)
    }

    /// When the address was given to who has it; `None`: nobody has it.
    pub fn given_at(&self, address: IpAddr) -> Option<SystemTime> {
        fs::symlink_metadata(self.address_path(address)).ok()?.modified().ok()
    }

    /// Addresses that someone has.
    pub fn taken(&self) -> Result<HashSet<IpAddr>, StateError> {
        Ok(names(&self.folder.join("addresses"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Frees addresses whose owner has no record. None of our own steps leaves such a one.
    pub fn free_orphans(&self) -> Result<usize, StateError> {
        let _lock = self.lock_pool()?;
        let mut freed = 0;
        for address in self.taken()? {
            if self.owner(address).is_none_or(|key| !self.record_path(&key).exists()) {
                remove(&self.address_path(address))?;
                freed += 1;
            }
        }
        Ok(freed)
    }

    /// Looks whether [`Store::claim`] would find addresses.
    pub fn probe(&self, ranges: &[Range]) -> Result<(), StateError> {
        choose(ranges, &[], &self.taken()?, &|range| self.last(range))?;
        Ok(())
    }

    /// A record that can't be read or freed costs nobody else an address.
    fn free_dead(&self, is_dead: &dyn Fn(&Record) -> bool) -> Result<usize, StateError> {
        let mut freed = 0;
        for key in self.keys()? {
            if let Ok(Some(claim)) = self.find_idle(&key)
                && claim.record.as_ref().is_some_and(is_dead)
                && self.release(&claim).is_ok()
            {
                freed += 1;
            }
        }
        Ok(freed)
    }

    fn lock_pool(&self) -> Result<File, StateError> {
        let path = self.folder.join("lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(io("open", &path))?;
        lock_until(&file, &path, Instant::now() + POOL_PATIENCE, POOL_PATIENCE)?;
        Ok(file)
    }

    /// Under the pool's lock, so that one name for what is not finished yet is enough.
    fn write_record(&self, key: &str, record: &Record) -> Result<File, StateError> {
        let (new, path) = (self.record_path(".new"), self.record_path(key));
        remove(&new)?;
        let mut options = OpenOptions::new();
        let mut file =
            options.append(true).create_new(true).mode(0o600).open(&new).map_err(io("make", &new))?;
        lock_until(&file, &new, Instant::now() + RECORD_PATIENCE, RECORD_PATIENCE)?;
        let mut text = serde_json::to_string(record).map_err(io::Error::from).map_err(io("write", &new))?;
        text.push('\n');
        file.write_all(text.as_bytes()).map_err(io("write", &new))?;
        fs::rename(&new, &path).map_err(io("rename into", &path))?;
        Ok(file)
    }

    fn take(&self, key: &str, address: IpAddr, range: &Range) -> Result<(), StateError> {
        let path = self.address_path(address);
        symlink(key, &path).map_err(io("make", &path))?;
        let (new, last) = (self.folder.join("last/.new"), self.last_path(range));
        remove(&new)?;
        symlink(address.to_string(), &new).map_err(io("make", &new))?;
        fs::rename(&new, &last).map_err(io("rename into", &last))
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        fs::read_link(self.address_path(address)).ok()?.into_os_string().into_string().ok()
    }

    fn last(&self, range: &Range) -> Option<IpAddr> {
        fs::read_link(self.last_path(range)).ok()?.to_str()?.parse().ok()
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.folder.join("attachments").join(key)
    }

    fn address_path(&self, address: IpAddr) -> PathBuf {
        self.folder.join("addresses").join(address.to_string())
    }

    fn last_path(&self, range: &Range) -> PathBuf {
        self.folder.join("last").join(range.to_string().replace('/', "_"))
    }
}

fn parse_record(text: &str) -> Option<Record> {
    let mut lines = text.split_inclusive('\n');
    let mut record: Record = serde_json::from_str(lines.next()?).ok()?;
    // A line that was cut off could be another device's number.
    let number = lines.next().and_then(|line| line.strip_suffix('\n'));
    record.host_ifindex = number.and_then(|line| line.parse().ok()).unwrap_or(0);
    Some(record)
}

fn boot_id(path: &Path) -> Result<String, StateError> {
    let text = fs::read_to_string(path).map_err(io("read the boot's id in", path))?;
    let id = text.trim();
    if !id.is_empty() && id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(id.to_owned());
    }
    Err(StateError::BootId { path: path.to_owned(), found: id.chars().take(80).collect() })
}

/// What an earlier boot left. Its pods are gone; that the folder can't be removed harms nobody.
fn sweep_other_boots(state_dir: &Path, boot_id: &str) {
    for name in names(state_dir).unwrap_or_default() {
        let path = state_dir.join(&name);
        if name != boot_id && path.join("addresses").is_dir() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// None where the folder is gone.
fn names(folder: &Path) -> Result<Vec<String>, StateError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io("list", folder))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(io("list", folder))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn lock_until(file: &File, path: &Path, deadline: Instant, patience: Duration) -> Result<(), StateError> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(io("lock", path)(e)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(StateError::Busy { path: path.to_owned(), seconds: patience.as_secs() });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { operation, path, source }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
