//! Locks, signals and child processes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// A role of this machine that one process holds at a time; the kernel gives it back when the process ends.
pub struct Role {
    file: File,
}

impl Drop for Role {
    /// By hand: a child that is being started may hold a copy of the descriptor for a moment longer.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "give back the role");
        }
    }
}

impl Role {
    /// Takes the role or names the process that has it.
    pub fn take(lock: &Path, role: &str) -> anyhow::Result<Role> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o644)
            .open(lock)
            .with_context(|| format!("open {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}\n{}", std::process::id(), pid_namespace()?)?;
                Ok(Role { file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                let pid = pid.lines().next().unwrap_or_default();
                bail!(
                    "skerry {role} runs here already (process {pid}): end it first, or give this one another --run-dir"
                );
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", lock.display())),
        }
    }
}

/// The process that holds a role; `None`: nobody.
///
/// # Errors
/// Also when it runs in a container: its number means another process out here.
pub fn holder(lock: &Path) -> anyhow::Result<Option<i32>> {
    let Ok(mut file) = File::open(lock) else { return Ok(None) };
    if file.try_lock_shared().is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let (pid, namespace) = text.split_once('\n').unwrap_or((&text, ""));
    ensure!(
        namespace.is_empty() || namespace == pid_namespace()?,
        "{} is held by a process of a container: end it there (the DaemonSet: `kubectl delete -k deploy/base`)",
        lock.display()
    );
    Ok(pid.trim().parse().ok())
}

/// Tells namespaces of process numbers apart.
fn pid_namespace() -> anyhow::Result<String> {
    let link = std::fs::read_link("/proc/self/ns/pid").context("ask for our namespace of processes")?;
    Ok(link.display().to_string())
}

/// A token that SIGTERM and SIGINT cancel.
pub fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let on_signal = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        on_signal.cancel();
    });
    Ok(token)
}

/// First and longest pause before a child that ended is started again.
const RESTART_MS: (u64, u64) = (200, 30_000);
/// A child that ran this long starts afresh at the short pause.
const STEADY: Duration = Duration::from_secs(60);
/// How long a child may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// A child process that is started again whenever it ends, until `shutdown`; then SIGTERM, and SIGKILL after a grace
/// period.
pub async fn keep_running(name: &str, program: PathBuf, args: Vec<String>, shutdown: CancellationToken) {
    let mut pause_ms = RESTART_MS.0;
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        let spawned = Command::new(&program).args(&args).stdin(Stdio::null()).kill_on_drop(true).spawn();
        match spawned {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => tracing::error!(process = name, ?status, "ended, will be started again"),
                    () = shutdown.cancelled() => return stop(name, child).await,
                }
            }
            Err(error) => tracing::error!(process = name, program = %program.display(), %error, "start"),
        }
        pause_ms = if started.elapsed() > STEADY { RESTART_MS.0 } else { (pause_ms * 2).min(RESTART_MS.1) };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn stop(name: &str, mut child: tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
    {
        tracing::warn!(process = name, %error, "send SIGTERM");
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        tracing::warn!(process = name, "did not end in time, killing it");
        if let Err(error) = child.kill().await {
            tracing::warn!(process = name, %error, "kill");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_held_once_and_names_its_holder() {
        let dir = std::env::temp_dir().join(format!("skerry-role-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let lock = dir.join("node.pid");
        assert_eq!(holder(&lock).unwrap(), None);
        let held = Role::take(&lock, "node").unwrap();
        let error = Role::take(&lock, "node").err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(holder(&lock).unwrap(), Some(std::process::id() as i32));
        drop(held);
        assert_eq!(holder(&lock).unwrap(), None);
        let held = Role::take(&lock, "node").unwrap();
        std::fs::write(&lock, "1\npid:[1]").unwrap();
        assert!(holder(&lock).unwrap_err().to_string().contains("container"));
        drop(held);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_child_that_ends_is_started_again_and_ends_with_us() {
        let dir = std::env::temp_dir().join(format!("skerry-child-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fifo = dir.join("starts");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let shutdown = CancellationToken::new();
        // The first start ends at once, the second stays until it is told.
        let script = format!(
            "echo x > {0}; test -e {1} && exec sleep 1000; touch {1}",
            fifo.display(),
            dir.join("again").display()
        );
        let child =
            tokio::spawn(keep_running("t", "/bin/sh".into(), vec!["-c".into(), script], shutdown.clone()));
        for _ in 0..2 {
            assert_eq!(tokio::fs::read_to_string(&fifo).await.unwrap(), "x\n");
        }
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), child).await.unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
