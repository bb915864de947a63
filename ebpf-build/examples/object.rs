//! Builds the object, checks it and prints where it lies.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let object = ebpf_build::build()?;
    ebpf_build::check_no_panics(&object)?;
    println!("{}", object.display());
    Ok(())
}
