//! Against real sockets: what goes over the wire, and what servers can do wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record};
use support::{options, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};
use whichpod_upstream::{Data, Discovery, Kind, LookupError, Options, Question, Resolver, Response, hickory};

const NAME: &str = "web.shop.svc.cluster.local";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// What a server sends for one query: any number of packets.
type Replies = Vec<Vec<u8>>;

/// A DNS server on loopback whose answers are a function.
struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<(Over, Message)>>>,
    /// How many TCP connections the client closed after their answer.
    closed: Arc<Mutex<usize>>,
}

impl Server {
    /// With `tcp` false, nothing listens on the TCP port.
    async fn start(tcp: bool, reply: impl Fn(Over, &Message) -> Replies + Send + Sync + 'static) -> Self {
        let (udp, listener) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be taken for TCP.
            if let Ok(listener) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, listener);
            }
        };
        let server = Self { address: udp.local_addr().unwrap(), log: Arc::default(), closed: Arc::default() };
        let (log, reply) = (Arc::clone(&server.log), Arc::new(reply));
        let answer = Arc::new(move |over, packet: &[u8]| {
            let query = Message::from_vec(packet).unwrap();
            let replies = reply(over, &query);
            log.lock().unwrap().push((over, query));
            replies
        });
        let over_udp = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            loop {
                let (len, from) = udp.recv_from(&mut packet).await.unwrap();
                for reply in over_udp(Over::Udp, &packet[..len]) {
                    udp.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let closed = Arc::clone(&server.closed);
        if tcp {
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (answer, closed) = (Arc::clone(&answer), Arc::clone(&closed));
                    tokio::spawn(
                        async move { serve(stream, |packet| answer(Over::Tcp, packet), closed).await },
                    );
                }
            });
        }
        server
    }

    fn log(&self) -> Vec<(Over, Message)> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn transports(&self) -> Vec<Over> {
        self.log().into_iter().map(|(over, _)| over).collect()
    }
}

async fn serve(mut stream: TcpStream, answer: impl Fn(&[u8]) -> Replies, closed: Arc<Mutex<usize>>) {
    while let Ok(len) = stream.read_u16().await {
        let mut packet = vec![0; usize::from(len)];
        stream.read_exact(&mut packet).await.unwrap();
        for reply in answer(&packet) {
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    }
    *closed.lock().unwrap() += 1;
}

fn client(servers: &[&Server]) -> Arc<dyn Resolver> {
    let servers = servers.iter().map(|server| server.address).collect();
    hickory(Some(servers), "/nonexistent/resolv.conf".into()).unwrap()
}

async fn ask(client: &Arc<dyn Resolver>, kind: Kind) -> Result<Response, LookupError> {
    client.lookup(Question { name: NAME.into(), kind, whole: false }).await
}

fn name(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 30, data)
}

fn pod(last: u8) -> Record {
    record(NAME, RData::A(A(Ipv4Addr::new(10, 0, 0, last))))
}

/// The answer to a query, changed at will.
fn reply(query: &Message, change: impl FnOnce(&mut Message)) -> Replies {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.queries.clone_from(&query.queries);
    change(&mut message);
    vec![message.to_vec().unwrap()]
}

fn answer(query: &Message, answers: Vec<Record>) -> Replies {
    reply(query, |message| message.answers = answers)
}

fn code(query: &Message, code: ResponseCode) -> Replies {
    reply(query, |message| message.metadata.response_code = code)
}

fn truncated(query: &Message) -> Replies {
    reply(query, |message| {
        message.metadata.truncation = true;
        message.add_answer(pod(66));
    })
}

fn addresses(response: &Response) -> Vec<String> {
    let address = |record: &whichpod_upstream::Record| match &record.data {
        Data::Address(ip) => Some(ip.to_string()),
        _ => None,
    };
    response.answers.iter().filter_map(address).collect()
}

#[tokio::test]
async fn a_question_says_what_fits_into_a_packet_and_an_answer_is_read() {
    let server = Server::start(true, |_, query| answer(query, vec![pod(1)])).await;
    let response = ask(&client(&[&server]), Kind::A).await.unwrap();
    assert!(!response.nxdomain);
    assert_eq!(addresses(&response), ["10.0.0.1"]);
    assert_eq!((&*response.answers[0].name, response.answers[0].ttl), (NAME, 30));
    let [(Over::Udp, query)] = &server.log()[..] else { panic!("one question over UDP") };
    assert_eq!(query.edns.as_ref().unwrap().max_payload(), 1232);
    assert!(query.metadata.recursion_desired);
    assert_eq!(query.queries[0].name(), &name(NAME));
}

#[tokio::test]
async fn all_kinds_of_records_are_read() {
    let server = Server::start(true, |_, query| {
        reply(query, |message| {
            let upper = "WEB.Shop.svc.cluster.LOCAL";
            message.add_answer(record(upper, RData::CNAME(CNAME(name("Web-0.other")))));
            message.add_answer(record(upper, RData::SRV(SRV::new(1, 2, 8080, name("web-0.other")))));
            message.add_answer(record(upper, RData::PTR(PTR(name("x.y")))));
            message.add_answer(record(upper, RData::SRV(SRV::new(0, 0, 0, Name::root()))));
            message.add_additional(record("web-0.other", RData::AAAA(AAAA("fd00::1".parse().unwrap()))));
        })
    })
    .await;
    let response = ask(&client(&[&server]), Kind::Srv).await.unwrap();
    assert!(response.answers.iter().all(|record| &*record.name == NAME), "names are compared in lower case");
    let data: Vec<_> = response.answers.into_iter().map(|record| record.data).collect();
    assert_eq!(
        data,
        [
            Data::Cname("web-0.other".into()),
            Data::Srv { priority: 1, port: 8080, target: "web-0.other".into() },
            Data::Ptr("x.y".into()),
            Data::Srv { priority: 0, port: 0, target: "".into() },
        ]
    );
    assert_eq!(&*response.additionals[0].name, "web-0.other");
    assert_eq!(response.additionals[0].data, Data::Address("fd00::1".parse().unwrap()));
}

#[tokio::test]
async fn loopback_s_own_zones_are_asked_like_all_others() {
    let server = Server::start(true, |_, query| {
        answer(query, vec![record("1.0.0.127.in-addr.arpa", RData::PTR(PTR(name(NAME))))])
    })
    .await;
    let question = Question { name: "1.0.0.127.in-addr.arpa".into(), kind: Kind::Ptr, whole: false };
    let response = client(&[&server]).lookup(question).await.unwrap();
    assert_eq!(response.answers[0].data, Data::Ptr(NAME.into()));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp_every_time() {
    let server = Server::start(true, |over, query| match over {
        Over::Udp => truncated(query),
        Over::Tcp => reply(query, |message| {
            for i in 0..1_000_u32 {
                let ip = Ipv4Addr::from_bits(0x0a00_0000 + i);
                message.add_answer(record(NAME, RData::A(A(ip))));
            }
        }),
    })
    .await;
    let client = client(&[&server]);
    for _ in 0..3 {
        let response = ask(&client, Kind::A).await.unwrap();
        assert_eq!(response.answers.len(), 1_000);
    }
    assert_eq!(server.transports(), [Over::Udp, Over::Tcp, Over::Udp, Over::Tcp, Over::Udp, Over::Tcp]);
    let all_closed = async {
        while *server.closed.lock().unwrap() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(2), all_closed).await.expect("no connection is left open");
}

#[tokio::test]
async fn a_whole_answer_is_asked_for_over_tcp_alone() {
    let server = Server::start(true, |_, query| answer(query, vec![pod(1)])).await;
    let question = Question { name: NAME.into(), kind: Kind::A, whole: true };
    client(&[&server]).lookup(question).await.unwrap();
    assert_eq!(server.transports(), [Over::Tcp]);
}

#[tokio::test]
async fn a_truncated_answer_is_never_applied_and_the_remedy_is_named() {
    let closed = Server::start(false, |_, query| truncated(query)).await;
    let error = ask(&client(&[&closed]), Kind::A).await.unwrap_err().to_string();
    for part in
        ["too big for UDP", "TCP failed", "refused", "allow TCP to port", NAME, &closed.address.to_string()]
    {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let even_tcp = Server::start(true, |_, query| truncated(query)).await;
    let error = ask(&client(&[&even_tcp]), Kind::A).await.unwrap_err().to_string();
    assert!(error.contains("too big even for TCP"), "{error}");
    let hangs_up = Server::start(true, |over, query| match over {
        Over::Udp => truncated(query),
        Over::Tcp => vec![b"no DNS".to_vec()],
    })
    .await;
    let error = ask(&client(&[&hangs_up]), Kind::A).await.unwrap_err().to_string();
    assert!(error.contains("allow TCP"), "{error}");
}

#[tokio::test]
async fn pods_stay_when_the_answer_outgrows_udp_and_tcp_is_closed() {
    let big = Arc::new(Mutex::new(false));
    let grown = Arc::clone(&big);
    let server = Server::start(false, move |_, query| match *grown.lock().unwrap() {
        true => truncated(query),
        false => reply(query, |message| {
            let mut record = pod(1);
            record.ttl = 0;
            message.add_answer(record);
        }),
    })
    .await;
    let options = Options {
        refresh_floor: Duration::from_millis(100),
        cluster_domain: Some("cluster.local".into()),
        namespace: Some("shop".into()),
        ..options()
    };
    let upstream = Discovery::new(client(&[&server]), options).add(settings("web:80"));
    upstream.until_settled().await;
    *big.lock().unwrap() = true;
    let fails = async {
        while upstream.snapshot().last_error().is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), fails).await.unwrap();
    assert_eq!(support::listed(&upstream), ["10.0.0.1:80"]);
    assert!(upstream.snapshot().last_error().unwrap().contains("allow TCP"));
}

#[tokio::test]
async fn nothing_there_and_cannot_say_are_told_apart() {
    let said = Arc::new(Mutex::new(ResponseCode::NoError));
    let saying = Arc::clone(&said);
    let server = Server::start(true, move |_, query| code(query, *saying.lock().unwrap())).await;
    let client = client(&[&server]);
    let asked = async |code| {
        *said.lock().unwrap() = code;
        ask(&client, Kind::A).await
    };
    assert_eq!(asked(ResponseCode::NoError).await, Ok(Response::default()));
    assert_eq!(asked(ResponseCode::NXDomain).await, Ok(Response { nxdomain: true, ..Response::default() }));
    for (code, text) in [
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::NotImp, "NOTIMP"),
        (ResponseCode::FormErr, "FORMERR"),
        (ResponseCode::Unknown(11), "code 11"),
    ] {
        let error = asked(code).await.unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(&server.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_edns_is_asked_without() {
    let server = Server::start(true, |_, query| match &query.edns {
        Some(_) => code(query, ResponseCode::FormErr),
        None => answer(query, vec![pod(1)]),
    })
    .await;
    assert_eq!(addresses(&ask(&client(&[&server]), Kind::A).await.unwrap()), ["10.0.0.1"]);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_and_stays_the_first() {
    let bad = Server::start(true, |_, query| code(query, ResponseCode::ServFail)).await;
    let good = Server::start(true, |_, query| answer(query, vec![pod(1)])).await;
    let client = client(&[&bad, &good]);
    for _ in 0..3 {
        ask(&client, Kind::A).await.unwrap();
    }
    assert_eq!((bad.log().len(), good.log().len()), (1, 3));
    let error = ask(&self::client(&[&bad, &bad]), Kind::A).await.unwrap_err().to_string();
    assert_eq!(error.matches("SERVFAIL").count(), 2, "each server's reason is told: {error}");
}

#[tokio::test]
async fn forged_and_broken_packets_are_not_believed() {
    let server = Server::start(true, |_, query| {
        let good = answer(query, vec![pod(1)]);
        let other_id = reply(query, |message| {
            message.metadata.id = query.metadata.id.wrapping_add(1);
            message.add_answer(pod(66));
        });
        let other_question = reply(query, |message| {
            message.queries[0].name = name("evil.example");
            message.add_answer(pod(67));
        });
        let mut replies = vec![Vec::new(), vec![0], b"garbage that is no DNS message at all".to_vec()];
        replies.extend(other_id);
        replies.extend(other_question);
        replies.extend(good);
        replies
    })
    .await;
    assert_eq!(addresses(&ask(&client(&[&server]), Kind::A).await.unwrap()), ["10.0.0.1"]);
}

#[tokio::test]
async fn a_broken_message_is_an_error_that_names_the_server() {
    let server = Server::start(true, |_, query| {
        let mut bytes = query.metadata.id.to_be_bytes().to_vec();
        bytes.extend([0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 0xc0, 0x0c]);
        vec![bytes]
    })
    .await;
    let error = ask(&client(&[&server]), Kind::A).await.unwrap_err().to_string();
    assert!(error.contains("cannot be read") && error.contains(&server.address.to_string()), "{error}");
}

#[tokio::test]
async fn an_answer_to_another_question_over_tcp_is_refused() {
    let server = Server::start(true, |_, query| {
        reply(query, |message| {
            message.queries[0].name = name("evil.example");
            message.add_answer(pod(66));
        })
    })
    .await;
    let question = Question { name: NAME.into(), kind: Kind::A, whole: true };
    let error = client(&[&server]).lookup(question).await.unwrap_err().to_string();
    assert!(error.contains("another question"), "{error}");
}

#[tokio::test]
async fn silence_ends_after_two_seconds() {
    let silent = Server::start(true, |_, _| Vec::new()).await;
    let stuck = Server::start(true, |over, query| match over {
        Over::Udp => truncated(query),
        Over::Tcp => Vec::new(),
    })
    .await;
    let start = Instant::now();
    let (silent_client, stuck_client) = (client(&[&silent]), client(&[&stuck]));
    let (first, second) = tokio::join!(ask(&silent_client, Kind::A), ask(&stuck_client, Kind::A));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(first.unwrap_err().to_string().contains("did not answer"));
    let second = second.unwrap_err().to_string();
    assert!(second.contains("did not answer") && second.contains("allow TCP"), "{second}");
    assert!(silent.log().len() >= 2, "a lost packet is sent again");
}

#[tokio::test]
async fn what_is_no_name_is_not_sent() {
    let server = Server::start(true, |_, query| code(query, ResponseCode::NXDomain)).await;
    for name in ["a..b", &"a".repeat(64), "a b"] {
        let question = Question { name: name.into(), kind: Kind::A, whole: false };
        let error = client(&[&server]).lookup(question).await.unwrap_err().to_string();
        assert!(error.contains("no DNS name"), "{error}");
    }
    assert!(server.log().is_empty());
}
