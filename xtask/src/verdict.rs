//! Runs one test program and reads what libtest (or libtest-mimic) says about it.

use std::{
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use skerry_lab::tail;

/// As many lines of the end of a failed program's output are shown.
const SHOWN: usize = 100;
/// As many lines of what each of its failed tests said, before the end.
const SHOWN_OF_EACH: usize = 40;

/// What came of a test program.
#[derive(Debug)]
pub struct Verdict {
    pub name: String,
    pub passed: usize,
    /// Names; the program itself where it crashed or took too long.
    pub failed: Vec<String>,
    pub ignored: Vec<String>,
    pub took: Duration,
}

impl Verdict {
    pub fn named(name: &str) -> Verdict {
        let name = name.to_owned();
        Verdict { name, passed: 0, failed: Vec::new(), ignored: Vec::new(), took: Duration::ZERO }
    }

    /// One line; with the end of the log where something failed.
    pub fn print(&self, log: &Path) {
        let Verdict { name, passed, failed, took, .. } = self;
        if failed.is_empty() {
            if *passed > 0 {
                println!("ok     {name}: {passed} passed in {:.1} s", took.as_secs_f64());
            }
            return;
        }
        println!("FAILED {name}: {}\n{}", failed.join(", "), tail(log, SHOWN));
        // Last, and apart from the end of the log: where the end alone is kept, this is what tells why.
        let text =
            fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        for said in reasons(&text) {
            println!("{}", said.join("\n"));
        }
        println!(
            "FAILED {name}: {} of {}; all of it: {}",
            failed.len(),
            passed + failed.len(),
            log.display()
        );
    }
}

/// Runs a program with its output in `log`; after `limit` it is killed with all that it started.
pub fn run(name: &str, mut command: Command, log: &Path, limit: Duration) -> Verdict {
    let begun = Instant::now();
    let mut verdict = Verdict::named(name);
    let output = fs::File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
    let started = output.and_then(|(stdout, stderr)| {
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0).spawn()
    });
    let ended = match started {
        Ok(child) => wait(child, limit).map_err(|error| format!("the program: {error}")),
        Err(error) => Err(format!("the program did not start: {error}")),
    };
    match fs::read(log) {
        Ok(bytes) => read(&String::from_utf8_lossy(&bytes), &mut verdict),
        // Another run may have taken the folder away: what was not read has not passed.
        Err(error) => verdict.failed.push(format!("its output can't be read: {error}")),
    }
    match ended {
        Ok(status) if !status.success() && verdict.failed.is_empty() => {
            verdict.failed.push(format!("the program ended with {status} (signal {:?})", status.signal()));
        }
        Ok(_) => {}
        Err(error) => verdict.failed.push(error),
    }
    verdict.took = begun.elapsed();
    verdict
}

/// Of a program that ran elsewhere. `code`: its exit code; none where it did not come to its end.
pub fn of_log(name: &str, log: &Path, code: Option<i32>) -> Verdict {
    let mut verdict = Verdict::named(name);
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    read(&text, &mut verdict);
    match code {
        Some(0) => {}
        Some(code) if verdict.failed.is_empty() => {
            verdict.failed.push(format!("the program ended with code {code} (124: it took too long)"));
        }
        Some(_) => {}
        None => verdict.failed.push("the program did not come to its end".to_owned()),
    }
    verdict
}

/// One line of libtest for each test that is done, and its sums; several of them for documentation tests.
fn read(text: &str, verdict: &mut Verdict) {
    for line in text.lines() {
        if let Some(sums) = line.strip_prefix("test result: ") {
            let passed = sums.split_once(". ").and_then(|(_, rest)| rest.split_once(" passed"));
            verdict.passed += passed.and_then(|(number, _)| number.parse::<usize>().ok()).unwrap_or(0);
        }
        let Some((test, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        match outcome.trim() {
            "FAILED" => verdict.failed.push(test.trim().to_owned()),
            outcome if outcome.starts_with("ignored") => verdict.ignored.push(test.trim().to_owned()),
            _ => {}
        }
    }
}

/// What each failed test said, the start of it: the sections that libtest prints under `failures:`.
fn reasons(text: &str) -> Vec<Vec<&str>> {
    let mut all: Vec<Vec<&str>> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        if line.starts_with("---- ") {
            within = true;
            all.push(Vec::new());
        } else if matches!(line, "failures:") || line.starts_with("test result: ") {
            within = false;
        }
        if let Some(said) = all.last_mut().filter(|said| within && said.len() < SHOWN_OF_EACH) {
            said.push(line);
        }
    }
    all
}

fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus, String> {
    let group = format!("-{}", child.id());
    let (sender, ended) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let _ = sender.send(child.wait());
    });
    let result = match ended.recv_timeout(limit) {
        Ok(status) => status.map_err(|error| error.to_string()),
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            Err(format!("still ran after {limit:?} and was killed"))
        }
    };
    let _ = waiter.join();
    result
}

/// The lines that `skerry_lab::skipped` wrote: test and reason.
pub fn read_skips(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(test, why)| (test.into(), why.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_lines_are_read() {
        let mut verdict = Verdict::named("x");
        let text = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored, slow\n\
                    test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n";
        read(text, &mut verdict);
        assert_eq!((verdict.passed, verdict.failed.as_slice()), (1, ["c".to_owned()].as_slice()));
        assert_eq!(verdict.ignored, ["d"]);
    }

    #[test]
    fn reasons_are_found_wherever_they_stand() {
        let text = "test a ... FAILED\n\nfailures:\n\n---- a ----\n3 of 9 failed\n\n---- b ----\nno answer\n\n\
                    failures:\n    a\n    b\n\ntest result: FAILED. 0 passed; 2 failed\nthe cluster's logs\n";
        assert_eq!(
            reasons(text),
            [vec!["---- a ----", "3 of 9 failed", ""], vec!["---- b ----", "no answer", ""]]
        );
    }

    #[test]
    fn a_crash_and_a_hang_are_failures() {
        let log = std::env::temp_dir().join(format!("skerry-verdict-{}", std::process::id()));
        let sh = |line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        };
        let crashed = run(
            "x",
            sh("echo test result: ok. 2 passed; 0 failed; kill -SEGV $$"),
            &log,
            Duration::from_secs(5),
        );
        assert_eq!((crashed.passed, crashed.failed.len()), (2, 1));
        let hung = run("x", sh("sleep 60 & sleep 60"), &log, Duration::from_millis(100));
        assert_eq!(hung.failed.len(), 1);
        assert!(hung.took < Duration::from_secs(5));
        fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_program_whose_output_is_gone_has_not_passed() {
        let log = std::env::temp_dir().join(format!("gone-{}.log", std::process::id()));
        let mut command = Command::new("rm");
        command.arg(&log);
        let verdict = run("gone", command, &log, Duration::from_secs(60));
        assert!(verdict.failed[0].starts_with("its output can't be read: "), "{:?}", verdict.failed);
    }
}
