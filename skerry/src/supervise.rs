//! Locks, signals and child processes.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::notify::{self, Ear};

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

/// How long a child may take to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// How long to wait before a child is started again. It grows only by starts that fail by themselves: not for
/// one that was ready, however short a time, nor for one that somebody killed.
#[derive(Debug)]
struct Pause(Duration);

/// How a child ended that was not told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Somebody killed it before it was ready.
    Killed,
    /// It failed before it was ready, or could not be started.
    Failed,
    /// After it was ready.
    Ready,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);

    /// The pause after this end.
    fn after(&mut self, end: End) -> Duration {
        let (pause, next) = match end {
            End::Ready => (Self::FIRST, Self::FIRST),
            End::Killed => (self.0, self.0),
            End::Failed => (self.0, (self.0 * 2).min(Self::LONGEST)),
        };
        self.0 = next;
        pause
    }
}

impl End {
    fn of(status: std::io::Result<ExitStatus>, was_ready: bool) -> Self {
        // Signals that a process brings upon itself are failures: SIGABRT, SIGSEGV and their like.
        let killed = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
        let signal = status.ok().and_then(|status| status.signal());
        match (was_ready, signal) {
            (true, _) => Self::Ready,
            (false, Some(signal)) if killed.iter().any(|other| *other as i32 == signal) => Self::Killed,
            (false, _) => Self::Failed,
        }
    }
}

/// A child process that is started again whenever it ends, until `shutdown`; then SIGTERM, and SIGKILL after
/// a grace period. It says at `ear` that it is ready.
pub async fn keep_running(
    name: &str,
    program: PathBuf,
    args: Vec<String>,
    ear: Ear,
    shutdown: CancellationToken,
) {
    let mut pause = Pause(Pause::FIRST);
    while !shutdown.is_cancelled() {
        // What an earlier child has said.
        ear.heard_ready();
        let mut command = Command::new(&program);
        command.args(&args).env(notify::VARIABLE, ear.path()).stdin(Stdio::null()).kill_on_drop(true);
        let end = match command.spawn() {
            Ok(mut child) => {
                let mut was_ready = false;
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status,
                        () = ear.ready(), if !was_ready => was_ready = true,
                        () = shutdown.cancelled() => return stop(name, child).await,
                    }
                };
                tracing::error!(process = name, ?status, "ended, will be started again");
                End::of(status, was_ready || ear.heard_ready())
            }
            Err(error) => {
                tracing::error!(process = name, program = %program.display(), %error, "start");
                End::Failed
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause.after(end)) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn stop(name: &str, mut child: tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = nix::sys::signal::kill(pid, Signal::SIGTERM)
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
        let ear = Ear::open(&dir.join("notify")).unwrap();
        let args = vec!["-c".into(), script];
        let child = tokio::spawn(keep_running("t", "/bin/sh".into(), args, ear, shutdown.clone()));
        for _ in 0..2 {
            assert_eq!(tokio::fs::read_to_string(&fifo).await.unwrap(), "x\n");
        }
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), child).await.unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_pause_grows_only_by_starts_that_fail_by_themselves() {
        let ms = |list: &[End]| {
            let mut pause = Pause(Pause::FIRST);
            list.iter().map(|end| pause.after(*end).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(ms(&[End::Failed; 8]), [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(ms(&[End::Killed; 8]), [200; 8]);
        assert_eq!(ms(&[End::Ready; 8]), [200; 8]);
        // Who was ready once begins anew; who is killed in between neither adds nor takes away.
        let mixed =
            [End::Failed, End::Failed, End::Killed, End::Failed, End::Ready, End::Failed, End::Failed];
        assert_eq!(ms(&mixed), [200, 400, 800, 800, 200, 200, 400]);
    }

    #[test]
    fn an_abort_is_a_failure_and_a_kill_is_none() {
        let raw = |status: i32| Ok(ExitStatus::from_raw(status));
        for (status, was_ready, expected) in [
            (raw(9), false, End::Killed),
            (raw(15), false, End::Killed),
            (raw(6), false, End::Failed),
            (raw(11), false, End::Failed),
            (raw(1 << 8), false, End::Failed),
            (raw(0), false, End::Failed),
            (raw(6), true, End::Ready),
            (raw(1 << 8), true, End::Ready),
        ] {
            let text = format!("{status:?} {was_ready}");
            assert_eq!(End::of(status, was_ready), expected, "{text}");
        }
    }

    /// The child of the next one.
    #[test]
    fn child_says_that_it_is_ready() {
        if std::env::var_os("SKERRY_TEST_SAYS_READY").is_some() {
            notify::Supervisor::from_env().ready();
        }
    }

    #[tokio::test]
    async fn a_child_that_is_ready_is_heard_once() {
        let dir = std::env::temp_dir().join(format!("skerry-ear-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let ear = Ear::open(&dir.join("notify")).unwrap();
        let say = || {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "supervise::tests::child_says_that_it_is_ready"]).stdout(Stdio::null());
            let child = child.env("SKERRY_TEST_SAYS_READY", "1").env(notify::VARIABLE, ear.path());
            assert!(child.status().unwrap().success());
        };
        say();
        tokio::time::timeout(Duration::from_secs(10), ear.ready()).await.unwrap();
        say();
        assert!(ear.heard_ready() && !ear.heard_ready());
        drop(ear);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
