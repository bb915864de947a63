//! A long-running process of a node: started into its cgroup, watched by a pidfd, ended by signal.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A daemon that this process started, or one that an earlier command did.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    pid: u32,
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn started(name: &str, child: Child, log: PathBuf) -> Daemon {
        Daemon { name: name.to_owned(), pid: child.id(), child: Some(child), log }
    }

    pub(crate) fn found(name: &str, pid: u32, log: PathBuf) -> Daemon {
        Daemon { name: name.to_owned(), pid, child: None, log }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal; a process that is gone already is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.pid.cast_signed()), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(errno) => bail!("send {signal} to {} ({}): {errno}", self.name, self.pid),
        }
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// When it is not gone after 10 seconds.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// `SIGTERM`, waits `grace`, then `SIGKILL`. Whether it went by itself.
    ///
    /// # Errors
    /// When it stays even then.
    pub fn stop(&mut self, grace: Duration) -> Result<bool> {
        self.signal(Signal::SIGTERM)?;
        if self.wait(grace).is_ok() {
            return Ok(true);
        }
        self.kill()?;
        Ok(false)
    }

    /// Waits for its end and returns the exit code (None: by a signal, or not our child).
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<i32>> {
        if !self.ended_within(limit)? {
            bail!("{} ({}) still runs after {limit:?}; its log: {}", self.name, self.pid, self.log.display());
        }
        let Some(child) = &mut self.child else { return Ok(None) };
        Ok(child.wait().with_context(|| format!("wait for {}", self.name))?.code())
    }

    /// Whether it runs now.
    pub fn runs(&mut self) -> bool {
        !self.ended_within(Duration::ZERO).unwrap_or(true)
    }

    /// The last `lines` of its log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    fn ended_within(&self, limit: Duration) -> Result<bool> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.cast_signed()) else { return Ok(true) };
        let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(true),
            Err(errno) => bail!("watch {} ({}): {errno}", self.name, self.pid),
        };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => bail!("watch {} ({}): {errno}", self.name, self.pid),
            }
        }
    }
}

/// The last `lines` of a text file, or why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}
