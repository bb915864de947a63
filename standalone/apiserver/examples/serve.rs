//! The API server alone, for trying things by hand: `cargo run -p skerry-apiserver --example serve -- FOLDER
//! PORT`.

use std::{path::PathBuf, sync::Arc};

use skerry_apiserver::{Config, Server};
use skerry_store::{LogStore, Options};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(port)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("give a folder and a port (0: any)");
    };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    let store = LogStore::open(&folder.join("store"), Options::default())?;
    let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
    let config = Config::new(folder, (loopback, port.parse()?).into(), loopback);
    let server = Server::bind(config, Arc::new(store)).await?;
    println!("https://{}  kubeconfig: {}", server.address(), server.paths().admin_kubeconfig.display());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.run(shutdown).await?;
    Ok(())
}
