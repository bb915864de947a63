//! The images of the walkthrough, built on the spot from Debian's packages, since no registry may be in
//! reach.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{archive::Recipe, command, debian, paths};

/// The packages from which the images are made; nginx and stress are unpacked beside the machine, not
/// installed.
pub const PACKAGES: &[&str] =
    &["busybox-static", "bash", "curl", "gcc", "libc6-dev", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1"];

/// The sandbox's image, as containerd's configuration names it.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
pub const NGINX: &str = "docker.io/library/nginx:latest";
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";
pub const STRESS: &str = "docker.io/polinux/stress:latest";
pub const FLUENTD: &str = "quay.io/fluentd_elasticsearch/fluentd:v2.5.2";
/// A server of ours that says who answers and who asked, over TCP and UDP: `echo-server PORT`, 8080 if none.
/// Not one of the walkthrough's.
pub const ECHO: &str = "docker.io/library/echo:latest";

/// An archive in `target/images` with all its names.
#[derive(Clone, Debug)]
pub struct Image {
    pub names: &'static [&'static str],
    pub archive: PathBuf,
}

type Maker = fn() -> Result<Recipe>;

/// What is made, under the names that manifests use. The version tags are names only: the content is
/// Debian's.
const IMAGES: &[(&str, &[&str], Maker)] = &[
    ("pause", &[PAUSE, "registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.9"], pause),
    ("nginx", &[NGINX, "docker.io/library/nginx:1.14.2", "docker.io/library/nginx:1.16.1"], nginx),
    ("busybox", &[BUSYBOX, "docker.io/library/busybox:1.28"], busybox),
    ("stress", &[STRESS], stress),
    ("fluentd", &[FLUENTD], fluentd),
];

/// All images of the walkthrough, made where they aren't yet.
///
/// # Errors
/// When a package can't be had or a file not be read.
pub fn walkthrough() -> Result<Vec<Image>> {
    let made = all();
    if made.is_ok() {
        return made;
    }
    let missing = debian::missing(PACKAGES)?;
    debian::install(&missing)?;
    all()
}

fn all() -> Result<Vec<Image>> {
    IMAGES.iter().map(|(name, names, maker)| image(name, names, *maker)).collect()
}

/// The image [`ECHO`], made where it isn't yet.
///
/// # Errors
/// As [`walkthrough`].
pub fn echo() -> Result<Image> {
    image("echo", &[ECHO], || {
        let recipe = applets()?.copy("usr/bin/echo-server", &echo_server()?)?;
        let recipe = recipe.program("bin/bash", Path::new("/bin/bash"))?;
        Ok(recipe.program("usr/bin/curl", Path::new("/usr/bin/curl"))?.cmd(&["echo-server"]))
    })
}

/// The program in [`ECHO`], for processes outside of pods.
///
/// # Errors
/// When it can't be compiled.
pub fn echo_server() -> Result<PathBuf> {
    compiled("echo-server", "echo.c")
}

/// The sandbox's image alone: all that a pod of the test's own making needs besides its own.
///
/// # Errors
/// As [`walkthrough`].
pub fn only(wanted: &[&str]) -> Result<Vec<Image>> {
    let wanted = IMAGES.iter().filter(|(_, names, _)| names.iter().any(|n| wanted.contains(n)));
    wanted.map(|(name, names, maker)| image(name, names, *maker)).collect()
}

fn image(name: &str, names: &'static [&'static str], maker: Maker) -> Result<Image> {
    let recipe = maker().with_context(|| format!("make the image {name}"))?;
    let dir = paths::target().join("images");
    let key = recipe.digest();
    let archive = dir.join(format!("{name}-{}.tar", key.get(..16).unwrap_or(&key)));
    if !archive.is_file() {
        recipe.write(&archive, names).with_context(|| format!("write the image {name}"))?;
    }
    Ok(Image { names, archive })
}

fn pause() -> Result<Recipe> {
    let program = compiled("pause", "pause.c")?;
    Ok(Recipe::default().copy("pause", &program)?.entrypoint(&["/pause"]))
}

/// `target/images/NAME`, a static program out of `images/SOURCE`, compiled where it is older.
fn compiled(name: &str, source: &str) -> Result<PathBuf> {
    let dir = paths::target().join("images");
    let program = dir.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images").join(source);
    let stale =
        || Ok::<_, std::io::Error>(fs::metadata(&program)?.modified()? < fs::metadata(&source)?.modified()?);
    if stale().unwrap_or(true) {
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let fresh = tempfile::NamedTempFile::new_in(&dir)
            .with_context(|| format!("make a file for {name}"))?
            .into_temp_path();
        command::output(Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&fresh).arg(&source))?;
        fresh.persist(&program).with_context(|| format!("keep {}", program.display()))?;
    }
    Ok(program)
}

fn busybox() -> Result<Recipe> {
    Ok(applets()?.cmd(&["sh"]))
}

fn stress() -> Result<Recipe> {
    let root = debian::unpacked("stress")?;
    applets()?.program("usr/bin/stress", &root.join("usr/bin/stress"))
}

fn fluentd() -> Result<Recipe> {
    let script = include_str!("../images/fluentd.sh");
    Ok(applets()?.file("entrypoint.sh", script, 0o755).cmd(&["/entrypoint.sh"]))
}

fn nginx() -> Result<Recipe> {
    let (program, common) = (debian::unpacked("nginx")?, debian::unpacked("nginx-common")?);
    let recipe = applets()?
        .program("usr/sbin/nginx", &program.join("usr/sbin/nginx"))?
        .program("bin/bash", Path::new("/bin/bash"))?
        .program("usr/bin/curl", Path::new("/usr/bin/curl"))?
        .program("usr/bin/getent", Path::new("/usr/bin/getent"))?
        .file("etc/nginx/nginx.conf", nginx_conf(), 0o644)
        .copy("etc/nginx/mime.types", &common.join("etc/nginx/mime.types"))?
        .copy("usr/share/nginx/html/index.html", &common.join("usr/share/nginx/html/index.html"))?
        .link("var/log/nginx/access.log", "/dev/stdout")
        .link("var/log/nginx/error.log", "/dev/stderr")
        .dir("var/lib/nginx");
    // A graceful end, as the image of that name asks for.
    Ok(recipe.cmd(&["nginx", "-g", "daemon off;"]).stop_signal("SIGQUIT"))
}

/// Listens on IPv6 too, as the image of that name does, where the kernel has it.
fn nginx_conf() -> String {
    let text = include_str!("../images/nginx.conf");
    let both = "listen 80;\n        listen [::]:80;";
    if Path::new("/proc/net/if_inet6").exists() { text.replace("listen 80;", both) } else { text.to_owned() }
}

/// A root file system with busybox's programs. Its `wget` is left out: it crashes where there is no NSS.
fn applets() -> Result<Recipe> {
    let busybox = Path::new("/bin/busybox");
    let mut recipe = Recipe::default().copy("bin/busybox", busybox)?;
    for applet in command::output(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" && applet != "wget" {
            recipe = recipe.link(&format!("bin/{applet}"), "/bin/busybox");
        }
    }
    for dir in ["proc", "sys", "dev", "run", "var/run", "var/log", "root", "home"] {
        recipe = recipe.dir(dir);
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/sbin/nologin\n\
                  nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
    let nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n";
    Ok(recipe
        .dir("tmp")
        .file("etc/passwd", passwd, 0o644)
        .file("etc/group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n", 0o644)
        .file("etc/nsswitch.conf", nsswitch, 0o644))
}
