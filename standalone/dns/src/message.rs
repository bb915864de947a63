//! Messages in their own form: what may be asked, and an answer that fits (RFC 1035, 6891).

use hickory_proto::{
    op::{DEFAULT_MAX_PAYLOAD_LEN, Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};

/// Without EDNS a datagram has at most this (RFC 1035 section 4.2.1).
pub const PLAIN_BYTES: u16 = 512;
/// What passes everywhere in one piece (DNS flag day 2020); more is asked for by TCP.
pub const DATAGRAM_BYTES: u16 = DEFAULT_MAX_PAYLOAD_LEN;
const HEADER_BYTES: usize = 12;
/// The bit that makes a message an answer, in its third byte.
const IS_ANSWER: u8 = 0x80;

/// How a question came, and so how long its answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// As metrics and logs have it.
    pub fn label(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }
}

/// A question that can be answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    head: Metadata,
    pub query: Query,
    /// The client speaks EDNS.
    edns: Option<Extension>,
    /// Bytes of an answer at most.
    limit: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extension {
    dnssec_ok: bool,
}

/// Why a message is no question that we answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Refusal {
    /// Not even a header, or an answer: to answer that could go on for ever.
    Silence,
    Answer(Box<Message>),
}

impl Request {
    /// # Errors
    /// What it is answered instead.
    pub fn read(packet: &[u8], transport: Transport) -> Result<Request, Refusal> {
        let (Some(id), Some(third)) = (packet.first_chunk::<2>(), packet.get(2)) else {
            return Err(Refusal::Silence);
        };
        if packet.len() < HEADER_BYTES || third & IS_ANSWER != 0 {
            return Err(Refusal::Silence);
        }
        let refuse = |op_code, code| {
            Err(Refusal::Answer(Box::new(Message::error_msg(u16::from_be_bytes(*id), op_code, code))))
        };
        let Ok(message) = Message::from_vec(packet) else {
            return refuse(OpCode::Query, ResponseCode::FormErr);
        };
        let head = message.metadata;
        if head.op_code != OpCode::Query {
            return refuse(head.op_code, ResponseCode::NotImp);
        }
        let [query] = &message.queries[..] else {
            return refuse(OpCode::Query, ResponseCode::FormErr);
        };
        let edns = message.edns.as_ref();
        let payload = edns.map_or(PLAIN_BYTES, |edns| edns.max_payload().clamp(PLAIN_BYTES, DATAGRAM_BYTES));
        let request = Request {
            head,
            query: query.clone(),
            edns: edns.map(|edns| Extension { dnssec_ok: edns.flags().dnssec_ok }),
            limit: match transport {
                Transport::Udp => payload.into(),
                Transport::Tcp => u16::MAX.into(),
            },
        };
        if edns.is_some_and(|edns| edns.version() > 0) {
            return Err(Refusal::Answer(Box::new(request.message(Content::empty(ResponseCode::BADVERS)))));
        }
        // Zone transfers, and the names of other classes, are nobody's here.
        let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if query.query_class() != DNSClass::IN || is_transfer {
            return Err(Refusal::Answer(Box::new(request.message(Content::empty(ResponseCode::Refused)))));
        }
        Ok(request)
    }

    pub fn wants_recursion(&self) -> bool {
        self.head.recursion_desired
    }

    pub fn wants_dnssec(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    pub fn checks_itself(&self) -> bool {
        self.head.checking_disabled
    }

    /// The answer's bytes: as much as the transport carries. What is left out is marked, so that the client
    /// asks by TCP; one that can't (musl before 1.2.4) has the first records at least.
    pub fn answer(&self, content: Content) -> Vec<u8> {
        let mut message = self.message(content);
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= self.limit => return bytes,
            Ok(_) => {}
            Err(_) => return self.failure(),
        }
        // Hints that were not asked for go first.
        message.additionals.clear();
        let whole = std::mem::take(&mut message.answers);
        let encoded = |count: usize, message: &mut Message| {
            message.answers = whole[..count].to_vec();
            message.metadata.truncation = count < whole.len();
            message.to_vec().ok().filter(|bytes| bytes.len() <= self.limit)
        };
        let (mut fits, mut too_many) = (0, whole.len() + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match encoded(middle, &mut message) {
                Some(_) => fits = middle,
                None => too_many = middle,
            }
        }
        let bytes = encoded(fits, &mut message);
        bytes
            .or_else(|| {
                message.authorities.clear();
                encoded(0, &mut message)
            })
            .unwrap_or_else(|| self.failure())
    }

    fn failure(&self) -> Vec<u8> {
        let message = Message::error_msg(self.head.id, OpCode::Query, ResponseCode::ServFail);
        message.to_vec().unwrap_or_default()
    }

    fn message(&self, content: Content) -> Message {
        let mut message = Message::response(self.head.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.head);
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        message.metadata.authoritative = content.is_authoritative;
        message.metadata.response_code = content.code;
        message.queries.push(self.query.clone());
        message.answers = content.answers;
        message.authorities = content.authorities;
        message.additionals = content.additionals;
        if let Some(edns) = self.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(DATAGRAM_BYTES).set_dnssec_ok(edns.dnssec_ok).set_version(0);
            ours.set_rcode_high(content.code.high());
            message.edns = Some(ours);
        }
        message
    }
}

/// The parts of an answer that depend on what was asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Content {
    pub code: ResponseCode,
    pub is_authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Content {
    pub fn empty(code: ResponseCode) -> Content {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        Content { code, is_authoritative: false, answers, authorities, additionals }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RData, rdata::A};
    use proptest::prelude::*;

    use super::*;

    fn question(edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message
            .add_query(Query::query(Name::from_ascii("weB.ns.svc.cluster.local.").unwrap(), RecordType::A));
        message.metadata.recursion_desired = true;
        if let Some(payload) = edns {
            message.set_edns({
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                edns
            });
        }
        message
    }

    fn many(count: u8) -> Content {
        let name = Name::from_ascii("weB.ns.svc.cluster.local.").unwrap();
        let record = |last| Record::from_rdata(name.clone(), 5, RData::A(A::new(10, 0, 0, last)));
        Content { answers: (0..count).map(record).collect(), ..Content::empty(ResponseCode::NoError) }
    }

    fn answered(edns: Option<u16>, transport: Transport, count: u8) -> (usize, Message) {
        let request = Request::read(&question(edns).to_vec().unwrap(), transport).unwrap();
        let bytes = request.answer(many(count));
        (bytes.len(), Message::from_vec(&bytes).unwrap())
    }

    #[test]
    fn an_answer_is_as_long_as_its_way_carries_and_says_what_is_missing() {
        let (length, cut) = answered(None, Transport::Udp, 200);
        assert!(length <= 512 && cut.metadata.truncation && cut.edns.is_none());
        assert!(cut.answers.len() > 20, "{} records of those that fit", cut.answers.len());
        let (length, cut) = answered(Some(4096), Transport::Udp, 200);
        assert!(length <= 1232 && cut.metadata.truncation && cut.answers.len() > 50 && cut.edns.is_some());
        let (_, whole) = answered(None, Transport::Tcp, 200);
        assert!(!whole.metadata.truncation && whole.answers.len() == 200);
        let (_, short) = answered(None, Transport::Udp, 3);
        assert!(!short.metadata.truncation && short.answers.len() == 3);
        assert_eq!(short.queries[0].name().to_ascii(), "weB.ns.svc.cluster.local.");
    }

    #[test]
    fn what_is_no_question_is_refused_by_its_fault() {
        let bytes = question(None).to_vec().unwrap();
        let refused = |bytes: &[u8]| match Request::read(bytes, Transport::Udp) {
            Err(Refusal::Answer(message)) => Some(message.metadata.response_code),
            Err(Refusal::Silence) => None,
            Ok(request) => panic!("{request:?}"),
        };
        assert_eq!(refused(&bytes[..11]), None);
        assert_eq!(refused(&bytes[..bytes.len() - 3]), Some(ResponseCode::FormErr));
        let mut answer = question(None);
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(refused(&answer.to_vec().unwrap()), None);
        let mut update = question(None);
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(refused(&update.to_vec().unwrap()), Some(ResponseCode::NotImp));
        let mut none = question(None);
        none.queries.clear();
        assert_eq!(refused(&none.to_vec().unwrap()), Some(ResponseCode::FormErr));
        let mut chaos = question(None);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(refused(&chaos.to_vec().unwrap()), Some(ResponseCode::Refused));
        let mut transfer = question(None);
        transfer.queries[0].set_query_type(RecordType::AXFR);
        assert_eq!(refused(&transfer.to_vec().unwrap()), Some(ResponseCode::Refused));
        let mut newer = question(Some(1232));
        newer.edns.as_mut().unwrap().set_version(1);
        assert_eq!(refused(&newer.to_vec().unwrap()), Some(ResponseCode::BADVERS));
    }

    proptest! {
        #[test]
        fn no_packet_brings_the_reader_down(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::read(&packet, Transport::Udp);
        }

        #[test]
        fn a_question_with_any_bytes_changed_is_answered_or_refused(
            changes in proptest::collection::vec((0_usize..80, any::<u8>()), 1..6),
            edns in proptest::option::of(any::<u16>()),
        ) {
            let mut bytes = question(edns).to_vec().unwrap();
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(request) = Request::read(&bytes, Transport::Udp) {
                prop_assert!(request.answer(many(100)).len() <= usize::from(DATAGRAM_BYTES));
            }
        }
    }
}
