//! Makes the kernel programs and lays them beside the crate's other generated files, to be embedded.

use std::path::Path;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    ebpf_build::watch();
    let object = ebpf_build::build()?;
    let to = Path::new(&std::env::var("OUT_DIR")?).join("skerry-bpf");
    let whole = std::fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    std::fs::write(&to, ebpf_build::slim(&whole)?).with_context(|| format!("write {}", to.display()))?;
    Ok(())
}
