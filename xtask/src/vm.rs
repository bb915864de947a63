//! `vm-test`: test programs of this workspace under other kernels, Debian's own, in virtual machines.
//!
//! A guest has this machine's root folder as its own, read-only, so that a program that was built here starts
//! there as it is; what it writes to is memory, and its logs come out through a shared folder. Nothing of a
//! kernel is installed here.

mod archive;
mod guest;
mod image;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use skerry_lab::{debian, paths};

use crate::{
    build::{self, TestProgram},
    progress::Progress,
    say, setup,
    test::Total,
    verdict::{self, Verdict},
};
use guest::Share;
use image::Kernel;

/// What runs guests and unpacks kernels.
const PACKAGES: &[&str] = &["qemu-system-x86", "kmod", "xz-utils", "busybox-static"];
/// A module of a package's test program that is run in a guest.
struct Entry {
    package: &'static str,
    module: &'static str,
    /// An emulated CPU is ten times slower.
    limit: Duration,
    args: &'static [&'static str],
}

const fn entry(package: &'static str, module: &'static str, seconds: u64) -> Entry {
    Entry { package, module, limit: Duration::from_secs(seconds), args: &[] }
}

const ENTRIES: &[Entry] = &[
    entry("skerry-packet-cases", "verifier", 180),
    entry("skerry-packet-cases", "kernel", 180),
    entry("skerry-packet-cases", "sockets", 600),
    entry("skerry-packet-cases", "nodes", 900),
    entry("skerry-packet-cases", "direct", 600),
    entry("skerry-packet-cases", "express", 600),
    entry("skerry-vm-cases", "sctp", 180),
    entry("skerry-vm-cases", "nfs", 300),
    entry("skerry-vm-cases", BALANCER, 300),
    entry("proxy-agent", "node", 600),
    Entry { args: ON_SLOW_CPUS, ..entry("proxy-agent", "traffic", 900) },
    Entry { args: &["--test-threads=1"], ..entry("proxy-agent", "wishes", 600) },
];
/// One at a time, since clients are busy all the while; what is about sizes and times is the real CPU's to
/// tell.
const ON_SLOW_CPUS: &[&str] =
    &["--test-threads=1", "--skip=ten_thousand", "--skip=twenty", "--skip=maps_that_grow"];
/// It starts `skerry lb` as users have it.
const BALANCER: &str = "dsr";

impl Entry {
    fn name(&self) -> String {
        format!("{}/{}", self.package, self.module)
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel series, newest package of each; 6.1 (Debian 12's) and 6.12 (Debian 13's) without any
    #[arg(long = "kernel", value_name = "6.1|6.12")]
    kernels: Vec<String>,
    /// Only test programs whose name has this in it (`PACKAGE/TARGET`)
    #[arg(long)]
    only: Option<String>,
    /// Passed on to every test program
    #[arg(last = true)]
    rest: Vec<String>,
}

/// # Errors
/// When a kernel can't be had, the tests can't be built or a guest does not come to its end. Tests that fail
/// give exit code 1.
pub fn run(args: &Args) -> Result<ExitCode> {
    let begun = Instant::now();
    setup::run()?;
    install()?;
    let series =
        if args.kernels.is_empty() { vec!["6.1".into(), "6.12".into()] } else { args.kernels.clone() };
    let kernels = series.iter().map(|series| Kernel::newest(series)).collect::<Result<Vec<_>>>()?;
    let jobs = jobs(args.only.as_deref())?;
    let (mut verdicts, mut skips) = (Vec::new(), Vec::new());
    for kernel in &kernels {
        let run = Run::prepare(kernel, &jobs, &args.rest)?;
        verdicts.extend(run.start()?);
        skips.extend(run.skips());
    }
    let total = Total::of(&verdicts, &skips, &[]);
    say(&format!(
        "{} kernels took {:.0} s, with setup and build",
        kernels.len(),
        begun.elapsed().as_secs_f64()
    ));
    total.print();
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn install() -> Result<()> {
    let missing = debian::missing(PACKAGES)?;
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("missing for virtual machines: {}; installing (no service is started)", missing.join(", ")));
    debian::install(&missing).context("install Debian packages")
}

/// An [`Entry`], built.
struct Job {
    name: String,
    program: TestProgram,
    limit: Duration,
    args: Vec<String>,
}

/// In the order of [`ENTRIES`].
fn jobs(only: Option<&str>) -> Result<Vec<Job>> {
    let wanted: Vec<_> =
        ENTRIES.iter().filter(|entry| only.is_none_or(|only| entry.name().contains(only))).collect();
    if wanted.is_empty() {
        let names: Vec<String> = ENTRIES.iter().map(Entry::name).collect();
        bail!("--only matches no module of a test program: there are {}", names.join(", "));
    }
    let packages: BTreeSet<String> = wanted.iter().map(|entry| entry.package.to_owned()).collect();
    if wanted.iter().any(|entry| entry.module == BALANCER) {
        build::programs(&Progress::new(build::STEPS))?;
    }
    let built = build::tests(&packages.into_iter().collect::<Vec<_>>())?;
    wanted
        .into_iter()
        .map(|entry| {
            let name = format!("{}/it", entry.package);
            let program = built.iter().find(|program| program.name == name).cloned();
            let program = program.with_context(|| format!("no test program {name}"))?;
            let mut args = vec![format!("{}::", entry.module)];
            args.extend(entry.args.iter().map(|&arg| arg.to_owned()));
            Ok(Job { name: entry.name(), program, limit: entry.limit, args })
        })
        .collect()
}

/// The folder of one guest: `target/vm/SERIES`, made anew each time.
struct Run<'a> {
    kernel: &'a Kernel,
    folder: PathBuf,
    jobs: &'a [Job],
}

impl<'a> Run<'a> {
    fn prepare(kernel: &'a Kernel, jobs: &'a [Job], rest: &[String]) -> Result<Run<'a>> {
        let folder = paths::target().join("vm").join(&kernel.series);
        let _ = fs::remove_dir_all(&folder);
        let out = folder.join("out");
        fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
        let run = Run { kernel, folder, jobs };
        run.write("guest.sh", include_str!("vm/guest.sh"))?;
        run.write("initrd", image::initrd(kernel)?)?;
        let lines = jobs.iter().map(|Job { name, program, limit, args }| {
            let (name, dir, path) = (log_name(name), program.dir.display(), program.path.display());
            format!("{name}\t{dir}\t{}\t{path} {} {}\n", limit.as_secs(), args.join(" "), rest.join(" "))
        });
        run.write("programs", lines.collect::<String>())?;
        run.write("environment", run.environment())?;
        Ok(run)
    }

    /// Sourced by the guest's script.
    fn environment(&self) -> String {
        let (workspace, target) = (paths::workspace(), paths::target());
        format!(
            "modules='{}'\nvisible='{} {}'\nexport SKERRY_GUEST=1 SKERRY_BIN_DIR='{}' {}=/run/out/skips\n",
            self.kernel.root.display(),
            workspace.display(),
            target.display(),
            target.join("release").display(),
            skerry_lab::SKIPS,
        )
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Boots the guest, which runs every program; one verdict each.
    fn start(&self) -> Result<Vec<Verdict>> {
        let accelerator = guest::accelerator(&self.kernel.image, &self.folder.join("initrd"))?;
        let Kernel { release, .. } = self.kernel;
        let (count, out) = (self.jobs.len(), self.folder.join("out"));
        say(&format!(
            "Linux {release} under {accelerator}: {count} test programs; their output is in {}",
            out.display()
        ));
        let machine = guest::Machine {
            accelerator,
            image: &self.kernel.image,
            initrd: &self.folder.join("initrd"),
            script: Some(&self.folder.join("guest.sh")),
            shares: &[
                Share { tag: "host", path: Path::new("/"), writable: false },
                Share { tag: "out", path: &out, writable: true },
                Share { tag: "visible0", path: &paths::workspace(), writable: false },
                Share { tag: "visible1", path: &paths::target(), writable: false },
            ],
            console: &self.folder.join("console.log"),
        };
        let mut running = machine.start()?;
        running.wait_for("up", guest::BOOT)?;
        let mut verdicts = Vec::new();
        for Job { name: module, limit, args, .. } in self.jobs {
            if args.len() > 1 {
                say(&format!("{module} runs with {}", args.join(" ")));
            }
            let (begun, name) = (Instant::now(), log_name(module));
            let ended = running.wait_for(&format!("done {name}"), *limit + guest::SLACK);
            let log = out.join(format!("{name}.log"));
            let shown = format!("Linux {}: {module}", self.kernel.series);
            let mut verdict = verdict::of_log(&shown, &log, exit_code(&out, &name));
            verdict.took = begun.elapsed();
            if let Err(error) = &ended {
                verdict.failed.push(format!("{error:#}"));
            }
            verdict.print(&log);
            verdicts.push(verdict);
            if ended.is_err() {
                return Ok(verdicts);
            }
        }
        running.wait_for("end", guest::SLACK)?;
        running.join()?;
        Ok(verdicts)
    }

    fn skips(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.folder.join("out/skips")).unwrap_or_default();
        let named = |(test, why)| (format!("Linux {}: {test}", self.kernel.series), why);
        verdict::read_skips(&text).into_iter().map(named).collect()
    }
}

fn log_name(program: &str) -> String {
    program.replace(['/', ' '], "-")
}

/// `None`: the guest did not come that far.
fn exit_code(out: &Path, name: &str) -> Option<i32> {
    fs::read_to_string(out.join(format!("{name}.code"))).ok()?.trim().parse().ok()
}
