//! A long-running process of a node: started into its cgroup, watched by a pidfd, ended by signal.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Cgroup;

/// A daemon that this process started, or one that an earlier command did.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    pid: u32,
    child: Option<Child>,
    log: PathBuf,
}

/// Where a daemon of some name belongs.
#[derive(Debug)]
pub(crate) struct Home {
    pub name: String,
    /// A leaf of its own.
    pub cgroup: Cgroup,
    pub pid_file: PathBuf,
    pub log: PathBuf,
}

impl Daemon {
    /// Starts `inner` in a session of its own and in `home`'s cgroup, its output appended to `home`'s log.
    pub(crate) fn spawn(home: &Home, inner: &Command, env: &[(&str, &str)]) -> Result<Daemon> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&home.log);
        let log = log.with_context(|| format!("open {}", home.log.display()))?;
        let child = Command::new("setsid")
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(env.iter().copied())
            // A log is read with other eyes than a terminal.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", home.name))?;
        let pid = child.id();
        // It may move itself too; but from here on it is found there by its name.
        let procs = home.cgroup.dir().join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("write {}", procs.display()))?;
        fs::write(&home.pid_file, pid.to_string())
            .with_context(|| format!("write {}", home.pid_file.display()))?;
        Ok(Daemon { name: home.name.clone(), pid, child: Some(child), log: home.log.clone() })
    }

    /// The one that was started from this place, by whichever process, if it still runs.
    pub(crate) fn find(home: &Home) -> Option<Daemon> {
        let pid: u32 = fs::read_to_string(&home.pid_file).ok()?.trim().parse().ok()?;
        // A number alone could be another process by now.
        home.cgroup.processes().contains(&pid).then(|| Daemon {
            name: home.name.clone(),
            pid,
            child: None,
            log: home.log.clone(),
        })
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
