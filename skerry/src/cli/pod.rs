//! `skerry pod timeline`: from what was typed to packets that arrive, step by step.

mod gather;
mod timeline;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Format, api::ApiOptions};

#[derive(Clone, Debug, Args)]
pub struct PodArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// When each step of a pod's start was done, until the last node's tables had it; a step that nothing has
    /// recorded says so
    Timeline {
        /// The pod's name
        pod: String,
        /// Its namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
        #[command(flatten)]
        api: ApiOptions,
    },
}

pub fn run(args: PodArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Timeline { pod, namespace, output, api } => {
            let facts = api.ask(async |client| gather::facts(&client, &namespace, &pod).await)?;
            timeline::sheet(&timeline::steps(&facts)).print(output);
        }
    }
    Ok(ExitCode::SUCCESS)
}
