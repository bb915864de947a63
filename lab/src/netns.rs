//! A named network namespace that is removed when its owner is dropped.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sched::{CloneFlags, setns},
};

/// Why a namespace could not be made, entered or worked in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("run `{command}`: start it")]
    Spawn { command: String, source: std::io::Error },
    #[error("run `{command}`: {status}: {stderr}")]
    Failed { command: String, status: std::process::ExitStatus, stderr: String },
    #[error("lock /run/skerry-lab.lock: are you root?")]
    Lock { source: std::io::Error },
    #[error("enter network namespace {name}")]
    Enter { name: String, source: std::io::Error },
}

/// A network namespace under `/run/netns`, made by `ip netns add` with `lo` up.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Netns {
    /// Makes `skt-<pid>-<n>-<hint>`: no two tests, and no two test processes, share a name.
    pub fn unique(hint: &str) -> Result<Netns, NetnsError> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Netns::create(&format!("skt-{}-{n}-{hint}", std::process::id()))
    }

    /// Makes a namespace of exactly this name; it must not exist yet.
    pub fn create(name: &str) -> Result<Netns, NetnsError> {
        add(name)?;
        let netns = Netns { name: name.to_owned(), keep: false };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// One that is there already and outlives this value.
    pub fn existing(name: &str) -> Netns {
        Netns { name: name.to_owned(), keep: true }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/netns/NAME`: what CNI_NETNS and `nsenter --net=` take.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip -n NAME ARGS`, the arguments split at white space.
    pub fn ip(&self, args: &str) -> Result<String, NetnsError> {
        run("ip", ["-n", &self.name].into_iter().chain(args.split_whitespace()))
    }

    /// A command that will start inside (network namespace only: `/sys` stays the caller's).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a shell line inside and returns its standard output; a non-zero exit is an error.
    pub fn sh(&self, line: &str) -> Result<String, NetnsError> {
        check(self.command("sh").arg("-c").arg(line), line)
    }

    /// Runs `f` on a thread of its own inside the namespace; sockets it makes stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let enter = |source: std::io::Error| NetnsError::Enter { name: self.name.clone(), source };
        let file = File::open(self.path()).map_err(enter)?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| enter(errno.into()))?;
                    Ok(f())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = run("ip", ["netns", "del", &self.name]) {
            eprintln!("{error}");
        }
    }
}

/// `ip netns add`, one at a time on this machine: the first ones ever would both mount `/run/netns` onto
/// itself, and the second mount hides what the first has made.
pub(crate) fn add(name: &str) -> Result<(), NetnsError> {
    let lock = |source| NetnsError::Lock { source };
    let file = File::create("/run/skerry-lab.lock").map_err(lock)?;
    let _held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| lock(errno.into()))?;
    run("ip", ["netns", "add", name]).map(drop)
}

/// Runs a program to its end and returns its standard output; a non-zero exit is an error.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<String, NetnsError> {
    let mut command = Command::new(program);
    command.args(args);
    let shown = format!("{command:?}");
    check(&mut command, &shown)
}

fn check(command: &mut Command, shown: &str) -> Result<String, NetnsError> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|source| NetnsError::Spawn { command: shown.to_owned(), source })?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        return Err(NetnsError::Failed { command: shown.to_owned(), status, stderr });
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_namespaces_do_not_see_each_other_and_leave_nothing() {
        let (a, b) = (Netns::unique("a").unwrap(), Netns::unique("b").unwrap());
        a.ip("link add v0 type veth peer name v1").unwrap();
        assert!(a.run(|| nix::net::if_::if_nametoindex("v0").is_ok()).unwrap());
        assert!(b.run(|| nix::net::if_::if_nametoindex("v0").is_err()).unwrap());
        let path = a.path();
        drop(a);
        assert!(!path.exists());
    }
}
