use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Replaces a file's contents in one step: whoever reads it sees the old or the new, never half of it.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A leading dot and no known extension: container runtimes overlook it.
    let fresh = folder.join(format!(".{name}.new"));
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_data()
    });
    let moved = written.and_then(|()| std::fs::rename(&fresh, path));
    if moved.is_err() {
        // Nothing half-written stays; the first error is the one to tell.
        drop(std::fs::remove_file(&fresh));
    }
    moved
}
