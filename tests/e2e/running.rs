//! A kubectl that goes on: `-w`, `-f`, `port-forward`, `attach`, `proxy`.

use std::{
    io::{Read, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use skerry_tests::eventually;

use crate::{record, world::SOON};

/// It is ended when this is dropped.
pub struct Running {
    line: String,
    is_noted: bool,
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Arc<Mutex<String>>,
}

impl Running {
    /// Where it is noted, what it has printed stands on the page of the walkthrough.
    pub fn start(mut command: Command, line: &str, is_noted: bool) -> Result<Running> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start kubectl {line}"))?;
        let printed = Arc::new(Mutex::new(String::new()));
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
            child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        ];
        for mut output in outputs.into_iter().flatten() {
            let printed = printed.clone();
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(read) = output.read(&mut chunk)
                    && read > 0
                {
                    let text = String::from_utf8_lossy(chunk.get(..read).unwrap_or_default());
                    *printed.lock().unwrap_or_else(PoisonError::into_inner) += &text;
                }
            });
        }
        Ok(Running { line: line.to_owned(), is_noted, stdin: child.stdin.take(), child, printed })
    }

    /// Both outputs so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed these words; all of its output so far.
    pub fn until(&self, words: &str) -> Result<String> {
        eventually(&format!("kubectl {} prints {words:?}", self.line), SOON, || {
            let printed = self.printed();
            ensure!(printed.contains(words), "{printed:?}");
            Ok(printed)
        })
    }

    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input has ended")?;
        stdin.write_all(text.as_bytes()).with_context(|| format!("write to kubectl {}", self.line))
    }

    /// Waits for its own end, after the end of its input; its exit code.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        drop(self.stdin.take());
        let status = eventually(&format!("kubectl {} ends", self.line), SOON, || {
            self.child.try_wait()?.with_context(|| format!("it has printed {:?}", self.printed()))
        })?;
        Ok(status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.is_noted {
            let printed = self.printed();
            let mut lines: Vec<&str> = printed.lines().collect();
            lines.dedup();
            record::typed("", &format!("kubectl {}", self.line), &lines.join("\n"));
        }
    }
}
