//! A virtual machine: its start, what it says on its serial line, its end.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use skerry_lab::tail;

/// How long an emulated guest may take until its script runs: 4 s on an idle machine.
pub const BOOT: Duration = Duration::from_secs(90);
/// What a guest may take besides the programs' own limits.
pub const SLACK: Duration = Duration::from_secs(60);
/// A guest that really runs on the CPU says something within a second.
const PROBE: Duration = Duration::from_secs(15);

/// How lines of the guest's scripts begin.
const SAYS: &str = "skerry-vm: ";
/// What `init.sh` says where nothing is shared with it.
const NO_ROOT: &str = "no root";
const CPUS: &str = "2";
const MEMORY_MIB: &str = "3072";

/// What carries out a guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The CPU.
    Kvm,
    /// An emulator, on two threads.
    Tcg,
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "emulation (TCG)",
        })
    }
}

/// A folder of this machine that a guest may mount by its tag.
pub struct Share<'a> {
    pub tag: &'a str,
    pub path: &'a Path,
    pub writable: bool,
}

pub struct Machine<'a> {
    pub accelerator: Accelerator,
    pub image: &'a Path,
    pub initrd: &'a Path,
    /// Run by the shell of the share `host`.
    pub script: Option<&'a Path>,
    pub shares: &'a [Share<'a>],
    /// Gets everything that the guest says.
    pub console: &'a Path,
}

/// Whether KVM works is found out by a guest: the device may be there and refuse, or hang.
pub fn accelerator(image: &Path, initrd: &Path) -> Result<Accelerator> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let console = initrd.with_file_name("probe.log");
    let accelerator = Accelerator::Kvm;
    let probe = Machine { accelerator, image, initrd, script: None, shares: &[], console: &console };
    let answered = probe.start()?.wait_for(NO_ROOT, PROBE);
    Ok(if answered.is_ok() { Accelerator::Kvm } else { Accelerator::Tcg })
}

impl Machine<'_> {
    pub fn start(&self) -> Result<Running> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(self.accelerator.arguments());
        command.args(["-smp", CPUS, "-m", MEMORY_MIB, "-nodefaults", "-no-reboot", "-display", "none"]);
        command.args(["-serial", "stdio", "-kernel"]).arg(self.image).arg("-initrd").arg(self.initrd);
        // A panic reboots at once, which ends the machine.
        let mut words = "console=ttyS0 quiet panic=-1 mitigations=off".to_owned();
        if let Some(script) = self.script {
            words += &format!(" skerry.script={}", script.display());
        }
        command.arg("-append").arg(words);
        for Share { tag, path, writable } in self.shares {
            let (path, readonly) = (path.display(), if *writable { "off" } else { "on" });
            command.arg("-fsdev").arg(format!(
                "local,id={tag},path={path},security_model=none,multidevs=remap,readonly={readonly}"
            ));
            command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
        }
        let console =
            fs::File::create(self.console).with_context(|| format!("write {}", self.console.display()))?;
        let errors = console.try_clone().context("share the console's log")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("start qemu-system-x86_64")?;
        let output = child.stdout.take().context("the guest's console")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut console = console;
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { return };
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let _ = writeln!(console, "{text}");
                if let Some((_, said)) = text.split_once(SAYS)
                    && sender.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Ok(Running { child, lines, console: self.console.to_owned() })
    }
}

/// A guest that runs; it ends with this value.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    console: std::path::PathBuf,
}

impl Running {
    /// Until the guest's script says something that begins so.
    ///
    /// # Errors
    /// When the guest ends first or is silent for too long; with the end of what it said.
    pub fn wait_for(&mut self, what: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(said) if said.starts_with(what) => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest did not say `{what}` within {limit:?}\n{}", tail(&self.console, 30))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended before it said `{what}`\n{}", tail(&self.console, 30))
                }
            }
        }
    }

    /// Waits until it has switched itself off.
    pub fn join(mut self) -> Result<()> {
        // Nobody sends any more once the guest's console is closed.
        match self.lines.recv_timeout(SLACK) {
            Err(RecvTimeoutError::Disconnected) => {}
            other => bail!("the guest did not switch itself off: {other:?}"),
        }
        let status = self.child.wait().context("wait for qemu-system-x86_64")?;
        if !status.success() {
            bail!("qemu-system-x86_64: {status}\n{}", tail(&self.console, 30));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
