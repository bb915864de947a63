use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use tokio::sync::watch;

use super::*;

const SHORTEST: Duration = Duration::from_millis(1);

fn quick() -> Options {
    Options {
        shortest_pause: SHORTEST,
        longest_pause: 8 * SHORTEST,
        absent_pause: SHORTEST,
        ..Options::default()
    }
}

/// Answers requests in their order, and notes them; without an answer left it says nothing.
#[derive(Clone)]
struct Server {
    asked: watch::Sender<Vec<String>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

enum Answer {
    Says(u16, Vec<u8>),
    /// Its body never ends.
    Hangs,
}

fn says(text: impl Into<Vec<u8>>) -> Answer {
    Answer::Says(200, text.into())
}

fn refuses(code: u16) -> Answer {
    let status =
        format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":{code}}}"#);
    Answer::Says(code, status.into())
}

fn list(revision: &str, next: &str, names: &[&str]) -> Answer {
    let items: Vec<String> = names.iter().map(|name| object(name, "1")).collect();
    says(format!(
        r#"{{"metadata":{{"resourceVersion":"{revision}","continue":"{next}"}},"items":[{}]}}"#,
        items.join(", ")
    ))
}

fn object(name: &str, revision: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{revision}"}}}}"#)
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#) + "\n"
}

impl Server {
    fn with(answers: impl IntoIterator<Item = Answer>) -> Server {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Server { asked: watch::Sender::default(), answers }
    }

    fn follow(&self, options: Options) -> Follow {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            server.asked.send_modify(|asked| asked.push(request.uri().to_string()));
            let next = server.answers.lock().unwrap().pop_front();
            async move {
                let (code, body) = match next {
                    Some(Answer::Says(code, text)) => (code, Either::Left(Full::new(Bytes::from(text)))),
                    Some(Answer::Hangs) => (200, Either::Right(StreamBody::new(futures::stream::pending()))),
                    None => std::future::pending().await,
                };
                Ok::<_, Infallible>(Response::builder().status(code).body::<Says>(body).unwrap())
            }
        };
        Follow::new(Client::new(tower::service_fn(answer), "ns"), Target::all("/things"), options)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits for the n-th request, which finds nothing to tell.
    async fn is_asked(&self, follow: &mut Follow, times: usize) {
        let mut asked = self.asked.subscribe();
        tokio::select! {
            _ = follow.next() => panic!("there is nothing to tell"),
            done = asked.wait_for(|asked| asked.len() == times) => assert!(done.is_ok()),
        }
    }
}

type Says = Either<Full<Bytes>, StreamBody<futures::stream::Pending<Result<Frame<Bytes>, Infallible>>>>;

/// The next news in short.
async fn told(follow: &mut Follow) -> String {
    let name = |object: Object| object.key().map_or("?".to_owned(), |key| key.to_string());
    match follow.next().await {
        News::Begin => "begin".to_owned(),
        News::Listed(object) => format!("listed {}", name(object)),
        News::Complete { revision } => format!("complete {revision}"),
        News::Applied(object) => format!("applied {}", name(object)),
        News::Deleted(object) => format!("deleted {}", name(object)),
        News::Progress { revision } => format!("progress {revision}"),
        News::Interrupted(error) => format!("interrupted {}", error.code().unwrap_or(0)),
        News::Absent(error) => format!("absent {}", error.code().unwrap_or(0)),
    }
}

async fn all_told<const N: usize>(follow: &mut Follow) -> [String; N] {
    let mut all = [const { String::new() }; N];
    for one in &mut all {
        *one = told(follow).await;
    }
    all
}

#[tokio::test]
async fn pages_are_told_object_by_object_and_the_watch_goes_on_from_the_list() {
    let events = event("ADDED", &object("c", "8"))
        + &event("BOOKMARK", &object("", "9"))
        + &event("INVENTED", &object("", "10"))
        + &event("DELETED", &object("a", "11"));
    let server = Server::with([list("5", "more&more", &["a", "b"]), list("7", "", &["b2"]), says(events)]);
    let mut follow = server.follow(quick());
    let listed = all_told::<5>(&mut follow).await;
    assert_eq!(listed, ["begin", "listed a", "listed b", "listed b2", "complete 7"]);
    assert_eq!(all_told::<3>(&mut follow).await, ["applied c", "progress 9", "deleted a"]);
    server.is_asked(&mut follow, 4).await;
    let asked = server.asked();
    assert_eq!(asked[..2], ["/things?limit=500", "/things?limit=500&continue=more%26more"]);
    assert!(asked[2].contains("watch=true") && asked[2].ends_with("resourceVersion=7"), "{asked:?}");
    assert!(asked[3].ends_with("resourceVersion=11"), "{asked:?}");
}

#[tokio::test]
async fn a_list_that_breaks_off_begins_anew() {
    let server = Server::with([list("5", "t", &["a"]), refuses(500), says("no list"), list("7", "", &["b"])]);
    let mut follow = server.follow(quick());
    assert_eq!(
        all_told::<8>(&mut follow).await,
        ["begin", "listed a", "interrupted 500", "begin", "interrupted 0", "begin", "listed b", "complete 7"]
    );
}

#[tokio::test]
async fn a_revision_that_is_too_old_leads_to_a_list_however_it_is_told() {
    let gone = event("ERROR", r#"{"kind":"Status","code":410,"message":"too old"}"#);
    let server = Server::with([
        list("5", "", &[]),
        says(gone),
        list("6", "", &[]),
        refuses(410),
        list("7", "", &["a"]),
    ]);
    let mut follow = server.follow(quick());
    assert_eq!(
        all_told::<7>(&mut follow).await,
        ["begin", "complete 5", "begin", "complete 6", "begin", "listed a", "complete 7"]
    );
}

#[tokio::test]
async fn an_event_that_is_not_understood_leads_to_a_list_and_not_back_to_it() {
    let not_utf8 = b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"\xff\"}}}\n".to_vec();
    for text in [event("MODIFIED", "7").into_bytes(), b"nonsense\n".to_vec(), not_utf8] {
        let server = Server::with([list("5", "", &[]), says(text), list("6", "", &["a"])]);
        let mut follow = server.follow(quick());
        let told = all_told::<6>(&mut follow).await;
        assert_eq!(told, ["begin", "complete 5", "interrupted 0", "begin", "listed a", "complete 6"]);
    }
}

#[tokio::test]
async fn what_is_no_object_in_a_list_stops_no_other() {
    let text = r#"{"metadata":{"resourceVersion":"5"},"items":[7,{"metadata":{"name":"a"}},null]}"#;
    let mut follow = Server::with([says(text)]).follow(quick());
    assert_eq!(all_told::<3>(&mut follow).await, ["begin", "listed a", "complete 5"]);
}

#[tokio::test]
async fn a_revision_that_the_server_refuses_again_and_again_is_given_up() {
    let refusals = (0..MAX_REFUSALS).map(|_| refuses(500));
    let server = Server::with([list("5", "", &[])].into_iter().chain(refusals).chain([list("6", "", &[])]));
    let mut follow = server.follow(quick());
    assert_eq!(all_told::<2>(&mut follow).await, ["begin", "complete 5"]);
    for _ in 0..MAX_REFUSALS {
        assert_eq!(told(&mut follow).await, "interrupted 500");
    }
    assert_eq!(all_told::<2>(&mut follow).await, ["begin", "complete 6"]);
}

#[tokio::test]
async fn pauses_grow_to_their_bound_and_are_forgotten_by_an_answer() {
    let server = Server::with((0..6).map(|_| refuses(503)).chain([list("5", "", &[]), refuses(503)]));
    let mut follow = server.follow(quick());
    let mut pauses = Vec::new();
    loop {
        match told(&mut follow).await.as_str() {
            "interrupted 503" => pauses.push(follow.pause.as_millis()),
            "complete 5" => break,
            _ => {}
        }
    }
    assert_eq!(pauses, [2, 4, 8, 8, 8, 8]);
    assert_eq!(told(&mut follow).await, "interrupted 503");
    assert_eq!(follow.pause, 2 * SHORTEST);
    let longest = Options::default().longest_pause;
    assert!(longest <= Duration::from_secs(5), "a server that comes back is heard within seconds");
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_asked_for_again_ever_more_slowly() {
    let server = Server::with([list("5", "", &[])].into_iter().chain((0..10).map(|_| says(""))));
    let mut follow = server.follow(quick());
    assert_eq!(all_told::<2>(&mut follow).await, ["begin", "complete 5"]);
    server.is_asked(&mut follow, 12).await;
    assert_eq!(follow.pause, 8 * SHORTEST);
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_given_up_and_asked_for_anew() {
    let options = Options { lasts: Duration::from_millis(80), ..quick() };
    let server = Server::with([list("5", "", &[]), Answer::Hangs, says(event("ADDED", &object("a", "6")))]);
    let mut follow = server.follow(options);
    assert_eq!(all_told::<2>(&mut follow).await, ["begin", "complete 5"]);
    assert_eq!(all_told::<2>(&mut follow).await, ["interrupted 0", "applied a"]);
    assert!(server.asked()[2].ends_with("resourceVersion=5"));
}

#[tokio::test]
async fn a_kind_that_may_be_absent_is_asked_for_again_much_later() {
    let options = Options { may_be_absent: true, ..quick() };
    let server = Server::with([refuses(404), refuses(403), list("5", "", &[]), refuses(404)]);
    let mut follow = server.follow(options);
    assert_eq!(
        all_told::<6>(&mut follow).await,
        ["begin", "absent 404", "begin", "absent 403", "begin", "complete 5"]
    );
    assert_eq!(told(&mut follow).await, "interrupted 404", "it has been there");
    let mut other = Server::with([refuses(404)]).follow(quick());
    assert_eq!(all_told::<2>(&mut other).await, ["begin", "interrupted 404"]);
}

#[tokio::test]
async fn what_is_too_large_is_asked_for_in_smaller_pages_or_listed_anew() {
    let huge = "x".repeat(MAX_PAGE_BYTES as usize + 1);
    let event = event("ADDED", &format!(r#"{{"x":"{}"}}"#, "x".repeat(MAX_EVENT_BYTES as usize)));
    let server = Server::with([says(huge), list("5", "", &["a"]), says(event), list("6", "", &[])]);
    let mut follow = server.follow(quick());
    assert_eq!(
        all_told::<6>(&mut follow).await,
        ["begin", "listed a", "complete 5", "interrupted 0", "begin", "complete 6"]
    );
    assert_eq!(server.asked()[1], "/things?limit=250");
    assert!(follow.text.capacity() <= KEPT_BYTES);
}
