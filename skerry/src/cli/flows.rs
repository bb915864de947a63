//! `skerry flows`: what the programs do to packets, as the agent hears of it.

use std::{
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::Format;

#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Only packets that were dropped (the programs tell of no others yet)
    #[arg(long)]
    drops: bool,
    /// End after so many
    #[arg(long)]
    count: Option<usize>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    #[arg(long, default_value = "/run/skerry")]
    run_dir: PathBuf,
}

pub fn run(args: FlowsArgs) -> anyhow::Result<ExitCode> {
    let path = args.run_dir.join("admin.sock");
    let stream = UnixStream::connect(&path).with_context(|| {
        format!("connect to the agent at {}: does it run here, and are you root?", path.display())
    })?;
    for line in BufReader::new(stream).lines().take(args.count.unwrap_or(usize::MAX)) {
        let line = line.context("read from the agent")?;
        match args.output {
            Format::Json => println!("{line}"),
            Format::Table => println!("{}", sentence(&line)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A record for people.
fn sentence(line: &str) -> String {
    let Ok(record) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let text = |name: &str| record[name].as_str().unwrap_or("?").to_owned();
    if let Some(lost) = record["lost"].as_u64() {
        return format!("{lost} records lost: this reader was too slow");
    }
    let (device, length) = (&record["ifindex"], &record["length"]);
    let device = device.as_u64().and_then(|index| skerry_kernel::ifname(index as u32).ok());
    format!(
        "{} {} → {} {} bytes on {}: dropped, {}: {}",
        text("protocol"),
        text("from"),
        text("to"),
        length,
        device.as_deref().unwrap_or("?"),
        text("reason"),
        text("meaning")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_told_in_one_line() {
        let line = r#"{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:2","ifindex":0,"length":60,
            "reason":"source_spoofed","meaning":"not its own"}"#;
        let said = sentence(line);
        assert_eq!(said, "tcp 10.0.0.1:1 → 10.0.0.2:2 60 bytes on ?: dropped, source_spoofed: not its own");
        assert!(sentence(r#"{"lost":7}"#).starts_with("7 records"));
        assert_eq!(sentence("x"), "x");
    }
}
