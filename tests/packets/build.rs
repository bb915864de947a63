fn main() -> Result<(), Box<dyn std::error::Error>> {
    ebpf_build::watch();
    let object = ebpf_build::build()?;
    ebpf_build::check_no_panics(&object)?;
    println!("cargo::rustc-env=SKERRY_BPF_OBJECT={}", object.display());
    println!("cargo::rerun-if-changed={}", object.display());
    Ok(())
}
