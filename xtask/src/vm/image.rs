//! A kernel of Debian's, unpacked below `target`, and the archive that takes it to its root folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use skerry_lab::debian;

use super::archive::Archive;
use crate::say;

/// What the way to a root folder over 9p needs, where it is not built in.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p"];
const BUSYBOX: &str = "/usr/bin/busybox";

/// An unpacked kernel package.
pub struct Kernel {
    /// `6.1`
    pub series: String,
    /// `6.1.0-56-amd64`
    pub release: String,
    pub image: PathBuf,
    /// The folder that holds `lib/modules`.
    pub root: PathBuf,
}

impl Kernel {
    /// The newest package of a series that this machine's apt knows.
    pub fn newest(series: &str) -> Result<Kernel> {
        let mut package = newest_package(&known(series)?, series);
        if package.is_none() {
            say(&format!("apt knows no Linux {series} yet: apt-get update"));
            skerry_lab::run("apt-get", &["update", "-q"])?;
            package = newest_package(&known(series)?, series);
        }
        let Some(package) = package else {
            bail!(
                "this machine's apt has no package linux-image-{series}.*-amd64: Debian 12 has 6.1, and 6.12 in \
                 bookworm-security or bookworm-backports; add the source, or choose others with --kernel"
            );
        };
        say(&format!("Linux {series} is {package}, unpacked below target/tools/debian (not installed)"));
        let root = debian::unpacked(&package).with_context(|| format!("unpack {package}"))?;
        let release = package.strip_prefix("linux-image-").unwrap_or(&package).to_owned();
        if !root.join("lib").exists() {
            // Where everything lies below /usr.
            std::os::unix::fs::symlink("usr/lib", root.join("lib")).context("link lib to usr/lib")?;
        }
        let image = root.join("boot").join(format!("vmlinuz-{release}"));
        let kernel = Kernel { series: series.to_owned(), release, image, root };
        kernel.index_modules()?;
        Ok(kernel)
    }

    fn index_modules(&self) -> Result<()> {
        if !self.root.join("lib/modules").join(&self.release).join("modules.dep").is_file() {
            let root = self.root.to_string_lossy();
            skerry_lab::run("depmod", &["-b", &root, &self.release])?;
        }
        Ok(())
    }

    /// Files of a module and what it rests on, in the order in which they go in.
    fn module_files(&self, module: &str) -> Result<Vec<PathBuf>> {
        let root = self.root.to_string_lossy();
        let shown =
            skerry_lab::run("modprobe", &["-d", &root, "-S", &self.release, "--show-depends", module])?;
        Ok(shown
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
            .map(|path| PathBuf::from(path.trim()))
            .collect())
    }
}

/// Names of signed kernels of a series.
fn known(series: &str) -> Result<String> {
    let pattern = format!("^linux-image-{}\\.[0-9].*-amd64$", series.replace('.', "\\."));
    skerry_lab::run("apt-cache", &["search", "--names-only", &pattern])
}

/// By the numbers in its name; without those of other flavours (`cloud`, `rt`).
fn newest_package(listed: &str, series: &str) -> Option<String> {
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    let plain = names.filter(|name| {
        let rest = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(series));
        rest.and_then(|rest| rest.strip_suffix("-amd64"))
            .is_some_and(|rest| !rest.contains("cloud") && !rest.contains("rt") && rest.starts_with('.'))
    });
    plain.max_by_key(|name| numbers(name)).map(str::to_owned)
}

fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The archive with `init.sh`, busybox and the modules on the way to the root folder.
pub fn initrd(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root"] {
        archive.folder(folder);
    }
    archive.file("init", include_bytes!("init.sh"));
    archive.file("bin/busybox", &fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX}"))?);
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        for path in kernel.module_files(module)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let name = name.trim_end_matches(".xz").to_owned();
            if !order.contains(&name) {
                archive.file(&format!("modules/{name}"), &unpacked(&path)?);
                order.push(name);
            }
        }
    }
    archive.file("modules/order", (order.join("\n") + "\n").as_bytes());
    Ok(archive.finish())
}

/// Debian compresses modules since Linux 6.12.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let out = Command::new("xz").arg("-dc").arg(path).output().context("start xz")?;
    if !out.status.success() {
        bail!("unpack {}: {}", path.display(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_of_a_series_is_chosen() {
        let listed = "linux-image-6.1.0-9-amd64 - Linux 6.1\nlinux-image-6.1.0-56-amd64 - Linux\n\
                      linux-image-6.1.0-57-cloud-amd64 - Linux\nlinux-image-6.1.0-58-rt-amd64 - Linux\n\
                      linux-image-6.12.9+deb12-amd64 - Linux\nlinux-image-6.12.117+deb12-amd64 - Linux\n";
        assert_eq!(newest_package(listed, "6.1").unwrap(), "linux-image-6.1.0-56-amd64");
        assert_eq!(newest_package(listed, "6.12").unwrap(), "linux-image-6.12.117+deb12-amd64");
        assert_eq!(newest_package(listed, "6.6"), None);
    }
}
