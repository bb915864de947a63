use std::{fs::File, io::Write as _};

use super::*;
use crate::logs::files::Formers;

const LIMITS: Limits = Limits { max_bytes: 1000, max_files: 3 };
const LIMIT: Duration = Duration::from_secs(20);

/// A runtime that writes one container's log.
struct Runtime {
    log: PathBuf,
    file: Mutex<File>,
    fails: Mutex<bool>,
}

impl Runtime {
    fn new(folder: &Path) -> Arc<Runtime> {
        let log = folder.join("0.log");
        let file = Mutex::new(Runtime::open(&log));
        Arc::new(Runtime { log, file, fails: Mutex::new(false) })
    }

    fn open(log: &Path) -> File {
        File::options().create(true).append(true).open(log).unwrap()
    }

    fn write(&self, text: &str) {
        self.file.lock().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn kept(&self) -> Vec<Kept> {
        vec![Kept { container_id: "c".to_owned(), log: self.log.clone() }]
    }
}

impl Reopen for Runtime {
    async fn reopen_log(&self, _: &str) -> Result<(), CriError> {
        if std::mem::take(&mut *self.fails.lock().unwrap()) {
            return Err(CriError::Timeout { operation: "test", object: "c".to_owned(), limit: LIMIT });
        }
        *self.file.lock().unwrap() = Runtime::open(&self.log);
        Ok(())
    }
}

fn keep(runtime: &Arc<Runtime>) -> (Arc<Keeper>, tokio::task::JoinHandle<()>) {
    let keeper = Arc::new(Keeper::default());
    keeper.keep("u", runtime.kept());
    let (keeping, runtime) = (keeper.clone(), runtime.clone());
    let task = tokio::spawn(async move {
        keeping.run(LIMITS, &*runtime).await.unwrap();
    });
    (keeper, task)
}

#[tokio::test]
async fn a_log_is_turned_over_as_soon_as_it_is_large() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(folder.path());
    let (keeper, task) = keep(&runtime);
    let turns = keeper.logs.of(&runtime.log);
    let mut count = turns.count();
    for turn in 1..=4 {
        runtime.write(&"x".repeat(1000));
        tokio::time::timeout(LIMIT, count.wait_for(|count| *count == turn)).await.unwrap().unwrap();
    }
    let formers = Formers::of(&runtime.log).unwrap();
    let packed: Vec<bool> = formers.files.iter().map(|file| file.packed).collect();
    assert_eq!((packed, formers.leavings.len()), (vec![true, false], 0));
    task.abort();
}

#[tokio::test]
async fn a_log_that_is_not_there_is_opened_anew_and_one_that_is_not_opened_keeps_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(folder.path());
    runtime.write("a\n");
    std::fs::rename(&runtime.log, folder.path().join("0.log.20260101-000000")).unwrap();
    let (keeper, task) = keep(&runtime);
    let there = async || {
        while !runtime.log.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, there()).await.unwrap();
    *runtime.fails.lock().unwrap() = true;
    let turns = keeper.logs.of(&runtime.log);
    let mut count = turns.count();
    runtime.write(&"x".repeat(1000));
    tokio::time::timeout(LIMIT, count.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    assert!(!*runtime.fails.lock().unwrap(), "tried once more");
    assert_eq!(Formers::of(&runtime.log).unwrap().files.len(), 2);
    task.abort();
}

#[test]
fn looks_come_the_sooner_the_sooner_the_log_may_be_full() {
    let mut now = Instant::now();
    let mut seen = Seen::new(0, now);
    let mut look = |bytes: u64, after_ms: u64| {
        now += Duration::from_millis(after_ms);
        seen.look(bytes, now, 100_000).map(|pause| pause.as_millis())
    };
    assert_eq!(look(0, 0), None);
    let slow: Vec<_> = (1..=8).map(|n| look(n, 10_000).unwrap()).collect();
    assert_eq!(slow, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    assert_eq!(look(8, 10_000), None, "nothing was written");
    assert_eq!(look(20_000, 1000).unwrap(), 250, "the first write after that");
    assert_eq!(look(20_100, 250).unwrap(), 500);
    assert_eq!(look(60_100, 500).unwrap(), 250, "40,000 in half a second: 39,900 are left");
}
