use super::*;

fn note(object: usize, message: &str) -> Note {
    let about = Regarding { kind: "Pod".into(), name: object.to_string(), ..Regarding::default() };
    let (kind, reason, at) = (EventType::Normal, "Reason".into(), Timestamp::UNIX_EPOCH);
    Note { about, kind, reason, message: message.to_owned(), action: "", at }
}

fn away() -> WriteError {
    WriteError::Silent { path: String::new() }
}

fn refused() -> WriteError {
    let source = Box::new(kube::Error::Api(Box::new(kube::core::Status { code: 403, ..Default::default() })));
    WriteError::Server { path: String::new(), source }
}

#[test]
fn the_same_text_raises_the_count_while_it_waits_and_after_it_was_written() {
    let now = Instant::now();
    let mut pending = Pending::new(now);
    assert!(pending.next_at().is_none());
    (0..3).for_each(|_| assert!(pending.add(note(1, "again"), now)));
    assert!(pending.add(note(1, "other"), now));
    let first = pending.due(now).unwrap();
    assert_eq!((first.note.message.as_str(), first.name.as_deref(), first.times), ("again", None, 3));
    pending.written(first, Ok(Written::As("e1".into())), now);
    let mut newer = note(1, "again");
    newer.about.resource_version = Some("9".into());
    assert!(pending.add(newer, now));
    assert_eq!(pending.due(now).unwrap().note.message, "other");
    let second = pending.due(now).unwrap();
    assert_eq!((second.name.as_deref(), second.times), (Some("e1"), 4));
    pending.written(second, Ok(Written::Gone), now);
    let anew = pending.due(now).unwrap();
    assert_eq!((anew.name.as_deref(), anew.times), (None, 1));
    pending.written(anew, Err(refused()), now);
    assert!(pending.next_at().is_none(), "what is refused is not tried again");
}

#[test]
fn a_server_that_is_away_is_asked_ever_more_slowly_and_loses_nothing_that_fits() {
    let now = Instant::now();
    let mut pending = Pending::new(now);
    assert!(pending.add(note(1, "first"), now) && pending.add(note(2, "second"), now));
    let (mut at, mut pauses) = (now, Vec::new());
    for _ in 0..6 {
        let due = pending.due(at).unwrap();
        assert_eq!((due.note.message.as_str(), due.times), ("first", 1));
        pending.written(due, Err(away()), at);
        assert!(pending.due(at).is_none());
        let next = pending.next_at().unwrap();
        pauses.push((next - at).as_millis());
        at = next;
    }
    assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 10_000]);
    let due = pending.due(at).unwrap();
    pending.written(due, Ok(Written::As("e1".into())), at);
    assert_eq!(pending.due(at).unwrap().note.message, "second");
}

#[test]
fn one_object_that_flaps_takes_nothing_from_the_others_and_all_stay_below_a_rate() {
    let start = Instant::now();
    let mut pending = Pending::new(start);
    let told = (0..1000).filter(|n| pending.add(note(0, &n.to_string()), start)).count();
    assert_eq!(told, OF_ONE.burst as usize);
    let told = (1..10_000).filter(|n| pending.add(note(*n, "x"), start)).count();
    assert_eq!(told, QUEUE - OF_ONE.burst as usize, "what does not fit is dropped");
    let mut written = 0;
    for ms in 0..=1000 {
        let now = start + Duration::from_millis(ms);
        while let Some(due) = pending.due(now) {
            pending.written(due, Ok(Written::As(written.to_string())), now);
            written += 1;
        }
    }
    assert_eq!(written, 100 + 50);
}

#[test]
fn memory_forgets_the_oldest_event_first_and_stays_bounded() {
    let mut known = Known::default();
    let print = |n: usize| Print::of(&note(n, ""));
    for n in 0..REMEMBERED + 10 {
        known.remember(print(n), n.to_string(), 1);
    }
    assert_eq!((known.of.len(), known.order.len()), (REMEMBERED, REMEMBERED));
    assert!(!known.of.contains_key(&print(9)) && known.of.contains_key(&print(10)));
}
