//! What a long command is doing and how much of it is left: one line that moves on a terminal, plain lines
//! elsewhere.

use std::{
    io::{BufRead, BufReader, IsTerminal, Write, stderr},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::say;

/// Of a terminal that says nothing of its width.
const WIDTH: usize = 80;
/// Wide enough that cargo's bar has its counts.
const BAR_WIDTH: &str = "100";

/// A line stands on the terminal that the next output would run into.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Before anybody else writes to the terminal: the line goes, until it moves again.
pub fn wipe() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let mut out = stderr().lock();
        // A terminal that is gone is no reason to stop.
        let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
    }
}

/// Steps one after the other, some of which say how far they are.
pub struct Progress {
    steps: usize,
    begun: Instant,
    now: Mutex<Now>,
    moves: bool,
}

#[derive(Default)]
struct Now {
    step: usize,
    what: String,
    /// Done, of how many.
    part: Option<(usize, usize)>,
}

impl Progress {
    /// So many steps are to come.
    pub fn new(steps: usize) -> Progress {
        Progress { steps, begun: Instant::now(), now: Mutex::default(), moves: stderr().is_terminal() }
    }

    /// The next step begins.
    pub fn step(&self, what: &str) {
        let mut now = self.now();
        (now.step, now.what, now.part) = (now.step + 1, what.to_owned(), None);
        match self.moves {
            true => self.draw(&now),
            false => say(&format!("{}/{} {what}", now.step, self.steps)),
        }
    }

    /// So much of the step is done; what has no end that is known says nothing.
    pub fn part(&self, done: usize, all: usize) {
        let mut now = self.now();
        now.part = Some((done, all));
        if self.moves {
            self.draw(&now);
        }
    }

    /// A line that stays, above the one that moves.
    pub fn line(&self, line: &str) {
        let now = self.now();
        wipe();
        eprintln!("{line}");
        if self.moves {
            self.draw(&now);
        }
    }

    /// As [`Progress::run`].
    ///
    /// # Errors
    /// When cargo can't be started, or ends with another code than 0.
    pub fn cargo(&self, command: &mut Command) -> Result<()> {
        let shown = skerry_lab::shown(command);
        let status = self.run(command).with_context(|| format!("run `{shown}`"))?;
        if !status.success() {
            bail!("`{shown}`: {status}");
        }
        Ok(())
    }

    /// Runs cargo; its bar becomes ours, and of what it prints beside it warnings and errors stay. Where nothing
    /// moves it prints as ever.
    ///
    /// # Errors
    /// When it can't be started, or its messages not be read.
    pub fn run(&self, command: &mut Command) -> std::io::Result<ExitStatus> {
        if !self.moves {
            return command.status();
        }
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", BAR_WIDTH);
        command.env("CARGO_TERM_COLOR", "always").stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(messages) = child.stderr.take() {
            let mut messages = BufReader::new(messages);
            while let Some(line) = next_line(&mut messages)? {
                match read(&line) {
                    Said::Bar(done, all) => self.part(done, all),
                    Said::Routine => {}
                    Said::News => self.line(&line),
                }
            }
        }
        let status = child.wait();
        wipe();
        status
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, now: &Now) {
        let text = text(now, self.steps, self.begun.elapsed());
        // What a narrow terminal breaks would not be overwritten.
        let fits: String = text.chars().take(width().saturating_sub(1)).collect();
        let mut out = stderr().lock();
        // A terminal that is gone is no reason to stop.
        let _ = write!(out, "\r\x1b[K{fits}").and_then(|()| out.flush());
        SHOWN.store(true, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        wipe();
    }
}

/// `[2/3] compiling: 120 of 431, 311 left; 40 s`.
fn text(now: &Now, steps: usize, elapsed: Duration) -> String {
    let part = now.part.map(|(done, all)| format!(": {done} of {all}, {} left", all.saturating_sub(done)));
    let seconds = elapsed.as_secs();
    let time = if seconds < 60 {
        format!("{seconds} s")
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    };
    format!("[{}/{steps}] {}{}; {time}", now.step, now.what, part.unwrap_or_default())
}

/// Columns of the terminal, as its shell says.
fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    told.filter(|columns| *columns > 20).unwrap_or(WIDTH)
}

/// A piece of cargo's messages.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// Units of compilation, done and all.
    Bar(usize, usize),
    /// What is there each time.
    Routine,
    News,
}

fn read(line: &str) -> Said {
    let plain = without_colours(line);
    let text = plain.trim();
    if text.is_empty() {
        return Said::Routine;
    }
    let first = text.split_whitespace().next().unwrap_or_default();
    if first == "Building" {
        // `Building [====>   ] 120/431: serde, …`
        let counts = text.split_once(']').map(|(_, rest)| rest.split(':').next().unwrap_or_default().trim());
        let counts = counts.and_then(|counts| counts.split_once('/'));
        let counts = counts.and_then(|(done, all)| Some((done.parse().ok()?, all.parse().ok()?)));
        return counts.map_or(Said::Routine, |(done, all)| Said::Bar(done, all));
    }
    let routine =
        ["Compiling", "Finished", "Fresh", "Downloading", "Downloaded", "Updating", "Locking", "Blocking"];
    if routine.contains(&first) { Said::Routine } else { Said::News }
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, code)) = rest.split_once('\x1b') {
        plain.push_str(before);
        // `ESC [ … letter`
        let end = code.find(|c: char| c.is_ascii_alphabetic()).map_or(code.len(), |at| at + 1);
        rest = &code[end..];
    }
    plain.push_str(rest);
    plain
}

/// Up to a line's end or a bar's return; `None` at the end.
fn next_line(from: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let have = from.fill_buf()?;
        if have.is_empty() {
            return Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()));
        }
        let end = have.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        line.extend(&have[..end.unwrap_or(have.len())]);
        let used = end.map_or(have.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done_and_what_is_left() {
        let mut now = Now { step: 2, what: "compiling".to_owned(), ..Now::default() };
        assert_eq!(text(&now, 3, Duration::from_secs(9)), "[2/3] compiling; 9 s");
        now.part = Some((120, 431));
        assert_eq!(
            text(&now, 3, Duration::from_secs(75)),
            "[2/3] compiling: 120 of 431, 311 left; 1 min 15 s"
        );
    }

    #[test]
    fn cargos_bar_is_read_and_its_warnings_stay() {
        for (line, said) in [
            ("    Building [=====>      ] 120/431: serde, tokio", Said::Bar(120, 431)),
            ("\x1b[1m\x1b[36m    Building\x1b[0m [>   ] 0/3: x", Said::Bar(0, 3)),
            ("    Building [=> ] ", Said::Routine),
            ("\x1b[1m\x1b[32m   Compiling\x1b[0m serde v1.0.0", Said::Routine),
            ("    Finished `release` profile [optimized] target(s) in 0.57s", Said::Routine),
            ("\x1b[K", Said::Routine),
            ("\x1b[1m\x1b[33mwarning\x1b[0m: unused variable", Said::News),
            ("error[E0599]: no method named `x`", Said::News),
            ("  --> src/main.rs:1:1", Said::News),
        ] {
            assert_eq!(read(line), said, "{line:?}");
        }
    }

    #[test]
    fn a_bar_ends_with_a_return_and_the_last_line_with_nothing() {
        let mut text: &[u8] = b"one\rtwo\n\nlast";
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut text).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "two", "", "last"]);
    }
}
