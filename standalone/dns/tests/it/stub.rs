//! A resolver that does what a test wants of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::op::{Message, OpCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

type Reply = Box<dyn Fn(&Message, bool) -> Vec<Message> + Send + Sync>;

pub struct Stub {
    pub address: SocketAddr,
    /// Names that it was asked for, as they were written.
    pub heard: Arc<Mutex<Vec<String>>>,
    pub count: Arc<AtomicUsize>,
}

impl Stub {
    /// `reply` has the question and whether it came by TCP, and says what is sent.
    pub async fn new(reply: impl Fn(&Message, bool) -> Vec<Message> + Send + Sync + 'static) -> Stub {
        let reply: Arc<Reply> = Arc::new(Box::new(reply));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let (heard, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let note = {
            let (heard, count) = (heard.clone(), count.clone());
            move |message: &Message| {
                let name = message.queries[0].name().to_ascii();
                // Questions that show whether somebody leads back are not the test's.
                if message.queries[0].query_type() != hickory_proto::rr::RecordType::HINFO {
                    heard.lock().unwrap().push(name);
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        };
        let (udp_reply, udp_note) = (reply.clone(), note.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let message = Message::from_vec(&buffer[..length]).unwrap();
                udp_note(&message);
                for answer in udp_reply(&message, false) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Ok(length) = stream.read_u16().await else { continue };
                let mut packet = vec![0; length.into()];
                stream.read_exact(&mut packet).await.unwrap();
                let message = Message::from_vec(&packet).unwrap();
                note(&message);
                for answer in reply(&message, true) {
                    let bytes = answer.to_vec().unwrap();
                    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        });
        Stub { address, heard, count }
    }

    pub fn asked(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// An answer to this, still empty.
pub fn answer_to(question: &Message) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.queries.clone_from(&question.queries);
    answer.metadata.recursion_available = true;
    answer
}
