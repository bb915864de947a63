//! `vm-test`: test programs of this workspace under other kernels, Debian's own, in virtual machines.
//!
//! A guest has this machine's root folder as its own, read-only, so that a program that was built here starts there as it is;
//! what it writes to is memory, and its logs come out through a shared folder. Nothing of a kernel is installed here.

mod archive;
mod guest;
mod image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use skerry_lab::{debian, paths};

use crate::{
    build::{self, TestProgram},
    say, setup,
    test::Total,
    verdict::{self, Verdict},
};
use guest::Share;
use image::Kernel;

/// What runs guests and unpacks kernels.
const PACKAGES: &[&str] = &["qemu-system-x86", "kmod", "xz-utils", "busybox-static"];
/// Test programs and how long each may take, an emulated CPU being ten times slower, and arguments.
const PROGRAMS: &[(&str, Duration, &[&str])] = &[
    ("skerry-packet-cases/verifier", Duration::from_secs(180), &[]),
    ("skerry-packet-cases/kernel", Duration::from_secs(180), &[]),
    ("skerry-packet-cases/sockets", Duration::from_secs(600), &[]),
    ("skerry-packet-cases/nodes", Duration::from_secs(900), &[]),
    ("skerry-packet-cases/direct", Duration::from_secs(600), &[]),
    ("skerry-packet-cases/express", Duration::from_secs(600), &[]),
    ("skerry-vm-cases/sctp", Duration::from_secs(180), &[]),
    ("skerry-vm-cases/nfs", Duration::from_secs(300), &[]),
    (BALANCER, Duration::from_secs(300), &[]),
    ("proxy-agent/node", Duration::from_secs(600), &[]),
    ("proxy-agent/traffic", Duration::from_secs(900), ON_SLOW_CPUS),
    ("proxy-agent/wishes", Duration::from_secs(600), &["--test-threads=1"]),
];
/// One at a time, since clients are busy all the while; what is about sizes and times is the real CPU's to tell.
const ON_SLOW_CPUS: &[&str] =
    &["--test-threads=1", "--skip=ten_thousand", "--skip=twenty", "--skip=maps_that_grow"];
/// It starts `skerry lb` as users have it.
const BALANCER: &str = "skerry-vm-cases/dsr";

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
/// When a kernel can't be had, the tests can't be built or a guest does not come to its end. Tests that fail give exit
/// code 1.
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

/// A line of [`PROGRAMS`], built.
struct Job {
    program: TestProgram,
    limit: Duration,
    args: &'static [&'static str],
}

/// In the order of [`PROGRAMS`].
fn jobs(only: Option<&str>) -> Result<Vec<Job>> {
    let wanted = PROGRAMS.iter().filter(|(name, ..)| only.is_none_or(|only| name.contains(only)));
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        let names: Vec<&str> = PROGRAMS.iter().map(|(name, ..)| *name).collect();
        bail!("--only matches no test program: there are {}", names.join(", "));
    }
    let mut packages: Vec<String> = Vec::new();
    for (name, ..) in &wanted {
        let package = name.split_once('/').map_or(*name, |(package, _)| package);
        if !packages.iter().any(|known| known == package) {
            packages.push(package.to_owned());
        }
    }
    if wanted.iter().any(|(name, ..)| *name == BALANCER) {
        build::all()?;
    }
    let built = build::tests(&packages)?;
    let find = |name: &str| built.iter().find(|program| program.name == name).cloned();
    wanted
        .into_iter()
        .map(|(name, limit, args)| {
            let program = find(name).with_context(|| format!("no test program {name}"))?;
            Ok(Job { program, limit: *limit, args })
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
        let lines = jobs.iter().map(|Job { program, limit, args }| {
            let (name, dir, path) = (log_name(&program.name), program.dir.display(), program.path.display());
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
        for Job { program, limit, args } in self.jobs {
            if !args.is_empty() {
                say(&format!("{} runs with {}", program.name, args.join(" ")));
            }
            let (begun, name) = (Instant::now(), log_name(&program.name));
            let ended = running.wait_for(&format!("done {name}"), *limit + guest::SLACK);
            let log = out.join(format!("{name}.log"));
            let shown = format!("Linux {}: {}", self.kernel.series, program.name);
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
