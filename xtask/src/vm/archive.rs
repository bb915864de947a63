//! The archive that a kernel unpacks into its first root folder: cpio, "newc"
//! (Documentation/driver-api/early-userspace).

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive that is being written. Names are relative, without a leading slash, a folder before what is in
/// it.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[]);
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Thirteen numbers of eight hexadecimal digits, the name with its zero byte, the content; both padded to
    /// four bytes.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (length, name_length) = (content.len() as u32, name.len() as u32 + 1);
        let links = if mode == FOLDER { 2 } else { 1 };
        let numbers = [self.entries, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_reads_what_was_written() {
        use std::{io::Write as _, process::Stdio};
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/odd", b"12345");
        archive.file("init", b"#!/bin/sh\n");
        let mut cpio = std::process::Command::new("busybox");
        let mut child =
            cpio.args(["cpio", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let facts: Vec<_> = rows.iter().map(|row| (row[0], row[2], *row.last().unwrap())).collect();
        assert_eq!(
            facts,
            [("drwxr-xr-x", "0", "bin"), ("-rwxr-xr-x", "5", "bin/odd"), ("-rwxr-xr-x", "10", "init")]
        );
    }
}
