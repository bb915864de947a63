//! Running other programs to their end, with errors that name what was typed and what it said.

use std::{
    fmt::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs `program ARGS` and returns its standard output; a non-zero exit is an error with its standard error.
///
/// # Errors
/// When it can't be started or ends with another code than 0.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    output(Command::new(program).args(args))
}

/// Like [`run`], of a command that is put together already.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("start `{shown}`"))?;
    if !out.status.success() {
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        bail!("`{shown}`: {}: {} {}", out.status, stderr.trim(), stdout.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain = !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || "'\"$;&|<>*".contains(c));
        if plain {
            let _ = write!(text, " {arg}");
        } else {
            let _ = write!(text, " '{}'", arg.replace('\'', r"'\''"));
        }
    }
    text
}
