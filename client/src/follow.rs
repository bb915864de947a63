//! The objects of one kind, by list and watch, for ever.

mod error;
mod object;
mod request;

use std::{collections::VecDeque, ops::Range, pin::Pin, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, future::BoxFuture};
use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use skerry_vocabulary::chain;
use tokio::time::{Instant, sleep_until, timeout};

pub use self::{error::FollowError, object::Object, request::Target};
use self::{object::Meta, request::Ask};

/// How a kind is followed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Life of one watch; the server ends it and we ask again from where we are.
    pub lasts: Duration,
    /// The first pause before another try …
    pub shortest_pause: Duration,
    /// … doubled up to this.
    pub longest_pause: Duration,
    /// There may be no such objects to see: the server does not know the kind or does not show it (404, 403).
    /// That is told as [`News::Absent`], and asked again after `absent_pause`.
    pub may_be_absent: bool,
    pub absent_pause: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lasts: Duration::from_secs(290),
            shortest_pause: Duration::from_millis(50),
            // A server that comes back is to be heard within seconds.
            longest_pause: Duration::from_secs(5),
            may_be_absent: false,
            absent_pause: Duration::from_secs(300),
        }
    }
}

/// What there is to know next.
#[derive(Debug)]
pub enum News<'a> {
    /// A list begins, maybe anew: what an unfinished one told is void.
    Begin,
    /// An object of the list.
    Listed(Object<'a>),
    /// The list is complete: what was not in it is gone. `revision` is the list's.
    Complete { revision: &'a str },
    /// It is new or has changed.
    Applied(Object<'a>),
    /// It is gone; this was its last state.
    Deleted(Object<'a>),
    /// Everything up to this revision has been told.
    Progress { revision: &'a str },
    /// Tried again after a pause. What was told stays in force.
    Interrupted(FollowError),
    /// There are no such objects to see, for now.
    Absent(FollowError),
}

/// Objects asked for at once. A page is told object by object and let go before the next is asked for.
const PAGE: usize = 500;
/// A page that is larger is asked for again in smaller ones.
const MAX_PAGE_BYTES: u64 = 64 << 20;
/// An object has at most 3 MiB (etcd's limit is half of it).
const MAX_EVENT_BYTES: u64 = 8 << 20;
/// A buffer that one large object has made is not kept.
const KEPT_BYTES: usize = 64 << 10;
/// For the first byte of an answer, and for a page of a list.
const PATIENCE: Duration = Duration::from_secs(60);
/// Watches from one revision that the server answers with an error before we list anew.
const MAX_REFUSALS: u32 = 5;

/// Follows one kind for as long as [`Follow::next`] is called; while the server is away it tries again, ever
/// more slowly.
///
/// Nothing is read ahead: who is slow holds up the watch, never memory.
pub struct Follow {
    client: Client,
    target: Target,
    options: Options,
    stage: Stage,
    /// Where a watch has got to; empty: list.
    revision: String,
    /// Text of the page or the event that is told.
    text: String,
    /// The page's objects that are not told yet, as places in `text`.
    objects: VecDeque<Range<usize>>,
    /// When `text` was here.
    received: Instant,
    page: usize,
    was_listed: bool,
    is_absent: bool,
    pause: Duration,
    resume_at: Option<Instant>,
    refusals: u32,
}

type Lines = Pin<Box<dyn AsyncBufRead + Send>>;

enum Stage {
    Begin,
    /// The page behind this token is asked for next.
    Page(String),
    /// All pages are told.
    Listed,
    Open,
    /// `heard`: this watch has told something.
    Watch {
        lines: Lines,
        since: Instant,
        heard: bool,
    },
}

/// As [`News`], with places in the buffer.
enum Step {
    Begin,
    Listed(Range<usize>),
    Complete,
    Applied(Range<usize>),
    Deleted(Range<usize>),
    Progress,
    Interrupted(FollowError),
    Absent(FollowError),
}

impl Follow {
    pub fn new(client: Client, target: Target, options: Options) -> Follow {
        Follow {
            client,
            target,
            stage: Stage::Begin,
            revision: String::new(),
            text: String::new(),
            objects: VecDeque::new(),
            received: Instant::now(),
            page: PAGE,
            was_listed: false,
            is_absent: false,
            pause: options.shortest_pause,
            resume_at: None,
            refusals: 0,
            options,
        }
    }

    /// Waits for what there is to know next. Not to be dropped half-way: a list or a watch would begin anew.
    ///
    /// Boxed here, so that a crate which awaits it compiles nothing of it.
    #[expect(clippy::should_implement_trait, reason = "what it returns borrows from it, and it never ends")]
    pub fn next(&mut self) -> BoxFuture<'_, News<'_>> {
        Box::pin(async move {
            let step = loop {
                if let Some(step) = self.step().await {
                    break step;
                }
            };
            self.news(step)
        })
    }

    fn news(&self, step: Step) -> News<'_> {
        match step {
            Step::Begin => News::Begin,
            Step::Listed(place) => News::Listed(self.object(place)),
            Step::Complete => News::Complete { revision: &self.revision },
            Step::Applied(place) => News::Applied(self.object(place)),
            Step::Deleted(place) => News::Deleted(self.object(place)),
            Step::Progress => News::Progress { revision: &self.revision },
            Step::Interrupted(error) => News::Interrupted(error),
            Step::Absent(error) => News::Absent(error),
        }
    }

    fn object(&self, place: Range<usize>) -> Object<'_> {
        Object { text: &self.text[place], received: self.received }
    }

    /// `None`: nothing to tell yet.
    async fn step(&mut self) -> Option<Step> {
        if let Some(place) = self.objects.pop_front() {
            return Some(Step::Listed(place));
        }
        if let Some(at) = self.resume_at {
            sleep_until(at).await;
            self.resume_at = None;
        }
        match std::mem::replace(&mut self.stage, Stage::Begin) {
            Stage::Begin => {
                self.stage = Stage::Page(String::new());
                Some(Step::Begin)
            }
            Stage::Page(token) => match self.list(&token).await {
                Ok(()) => None,
                Err(error) => Some(self.list_failed(error)),
            },
            Stage::Listed => {
                self.text = String::new();
                self.was_listed = true;
                self.is_absent = false;
                self.pause = self.options.shortest_pause;
                self.stage = Stage::Open;
                Some(Step::Complete)
            }
            Stage::Open => {
                let ask = Ask::Watch { from: &self.revision, lasts: self.options.lasts };
                match open(&self.client, &self.target, ask).await {
                    Ok(lines) => {
                        self.stage = Stage::Watch { lines, since: Instant::now(), heard: false };
                        None
                    }
                    Err(error) => self.watch_failed(error),
                }
            }
            Stage::Watch { lines, since, heard } => self.watch(lines, since, heard).await,
        }
    }

    /// Reads one page and finds its objects.
    async fn list(&mut self, token: &str) -> Result<(), FollowError> {
        let ask = Ask::Page { limit: self.page, token };
        let mut stream = open(&self.client, &self.target, ask).await?.take(MAX_PAGE_BYTES + 1);
        let mut body = Vec::new();
        let read = stream.read_to_end(&mut body);
        within(PATIENCE, &self.target, read).await?.map_err(|source| self.target.unread(source))?;
        if body.len() as u64 > MAX_PAGE_BYTES && self.page > 1 {
            self.page /= 2;
            self.stage = Stage::Page(token.to_owned());
            return Ok(());
        }
        self.received = Instant::now();
        self.text = self.target.text(body)?;
        let page: Page = serde_json::from_str(&self.text).map_err(|source| self.target.no_list(source))?;
        for item in page.items.unwrap_or_default() {
            if is_object(item) {
                self.objects.push_back(place(item, &self.text));
            } else {
                tracing::warn!(path = self.target.path, "what is no object stands in a list: left out");
            }
        }
        let metadata = page.metadata;
        self.stage = match metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => Stage::Page(next),
            None => {
                self.revision = metadata.resource_version.unwrap_or_default();
                Stage::Listed
            }
        };
        Ok(())
    }

    /// Reads one event.
    async fn watch(&mut self, mut lines: Lines, since: Instant, heard: bool) -> Option<Step> {
        let mut line = std::mem::take(&mut self.text).into_bytes();
        line.clear();
        line.shrink_to(KEPT_BYTES);
        // A connection that says nothing for longer than a watch lasts is dead.
        let silence = self.options.lasts + self.options.lasts / 8;
        let read = async { lines.as_mut().take(MAX_EVENT_BYTES + 1).read_until(b'\n', &mut line).await };
        match within(silence, &self.target, read).await {
            Ok(Ok(0)) => {
                self.ended(since, heard);
                return None;
            }
            Ok(Ok(_)) => {}
            Ok(Err(source)) => {
                let error = self.target.unread(source);
                return self.watch_failed(error);
            }
            Err(error) => return self.watch_failed(error),
        }
        self.received = Instant::now();
        match self.event(line) {
            Ok(step) => {
                self.pause = self.options.shortest_pause;
                self.refusals = 0;
                self.stage = Stage::Watch { lines, since, heard: true };
                step
            }
            Err(error) => self.watch_failed(error),
        }
    }

    fn event(&mut self, line: Vec<u8>) -> Result<Option<Step>, FollowError> {
        if line.len() as u64 > MAX_EVENT_BYTES {
            return Err(self.target.oversized(MAX_EVENT_BYTES));
        }
        self.text = self.target.text(line)?;
        let event: Event = serde_json::from_str(&self.text).map_err(|source| self.target.no_event(source))?;
        let (kind, place) = (event.kind, place(event.object, &self.text));
        if !is_object(event.object) {
            return Err(self.target.no_object());
        }
        if kind == "ERROR" {
            let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
            return Err(self.target.ended(status.code, status.message));
        }
        let meta = Meta::of(event.object.get());
        let revision = meta.resource_version.filter(|revision| !revision.is_empty());
        let step = match &*kind {
            "ADDED" | "MODIFIED" => Some(Step::Applied(place)),
            "DELETED" => Some(Step::Deleted(place)),
            "BOOKMARK" if revision.is_some() => Some(Step::Progress),
            // What may be invented later brings a revision, if anything.
            _ => None,
        };
        if let Some(revision) = revision {
            self.revision = revision;
        }
        Ok(step)
    }

    /// The server has ended the watch in good order. One that ends at once is asked for again no faster than
    /// one that failed.
    fn ended(&mut self, since: Instant, heard: bool) {
        self.stage = Stage::Open;
        if heard || since.elapsed() > self.options.longest_pause {
            self.pause = self.options.shortest_pause;
        } else {
            self.rest();
        }
    }

    /// A list did not get to its end.
    fn list_failed(&mut self, error: FollowError) -> Step {
        let path = &self.target.path;
        self.stage = Stage::Begin;
        if self.options.may_be_absent && !self.was_listed && error.is_absence() {
            if !std::mem::replace(&mut self.is_absent, true) {
                tracing::info!(path, error = chain(&error), "goes without");
            }
            self.resume_at = Some(Instant::now() + self.options.absent_pause);
            return Step::Absent(error);
        }
        tracing::warn!(path, error = chain(&error), retry_in = ?self.pause, "list failed");
        self.rest();
        Step::Interrupted(error)
    }

    fn watch_failed(&mut self, error: FollowError) -> Option<Step> {
        let path = &self.target.path;
        self.refusals = if error.code().is_some() { self.refusals + 1 } else { 0 };
        if error.is_expiry() {
            tracing::info!(path, revision = self.revision, "listing anew: the revision is too old");
        } else {
            tracing::warn!(path, error = chain(&error), retry_in = ?self.pause, "watch interrupted");
        }
        self.stage = if error.is_past() || self.refusals >= MAX_REFUSALS {
            self.refusals = 0;
            Stage::Begin
        } else {
            Stage::Open
        };
        self.rest();
        (!error.is_expiry()).then_some(Step::Interrupted(error))
    }

    fn rest(&mut self) {
        self.resume_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(self.options.longest_pause);
    }
}

async fn open(client: &Client, target: &Target, ask: Ask<'_>) -> Result<Lines, FollowError> {
    let request = target.request(ask)?;
    let answer = within(PATIENCE, target, client.request_stream(request)).await?;
    Ok(Box::pin(answer.map_err(|source| target.refused(source))?))
}

async fn within<T>(
    limit: Duration,
    target: &Target,
    answer: impl Future<Output = T>,
) -> Result<T, FollowError> {
    timeout(limit, answer).await.map_err(|_| target.silent(limit))
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// Where a part of a text stands in it.
fn place(part: &RawValue, text: &str) -> Range<usize> {
    let start = part.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.get().len()
}

#[cfg(test)]
mod tests;
