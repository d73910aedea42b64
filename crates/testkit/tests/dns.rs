//! The DNS server over its sockets, asked by hand-made queries.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};
use whichpod_testkit::dns::{DnsServer, Failure, Pod, RecordType, Service, Zone};

const NAME: &str = "backend-headless.default.svc.cluster.local.";

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 1, 0, last])
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

async fn udp(server: SocketAddr, query: &Message) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut answer = vec![0; 65535];
    let length = socket.recv(&mut answer).await.unwrap();
    answer.truncate(length);
    answer
}

async fn tcp(server: SocketAddr, queries: &[Message]) -> std::io::Result<Vec<Message>> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut answers = Vec::new();
    for query in queries {
        let bytes = query.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        answers.push(Message::from_vec(&answer).unwrap());
    }
    Ok(answers)
}

async fn ask(server: &DnsServer, name: &str, kind: RecordType) -> Message {
    let query = query(name, kind);
    let answer = Message::from_vec(&udp(server.address(), &query).await).unwrap();
    assert_eq!(answer.metadata.id, query.metadata.id);
    assert_eq!(answer.queries, query.queries);
    answer
}

async fn code(server: &DnsServer, name: &str) -> ResponseCode {
    ask(server, name, RecordType::A).await.metadata.response_code
}

/// The data of the answers, as text, sorted.
async fn data(server: &DnsServer, name: &str, kind: RecordType) -> Vec<String> {
    let mut data: Vec<String> =
        ask(server, name, kind).await.answers.iter().map(|r| r.data.to_string()).collect();
    data.sort();
    data
}

#[tokio::test]
async fn a_change_of_the_zone_is_in_the_next_answer() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let zone = server.zone().clone();
    assert_eq!(code(&server, NAME).await, ResponseCode::NXDomain);

    zone.set_a(NAME, &[ip(1), ip(2), "::1".parse().unwrap()], 7);
    let answer = ask(&server, NAME, RecordType::A).await;
    assert_eq!(answer.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [7, 7]);
    assert_eq!(data(&server, NAME, RecordType::A).await, ["127.1.0.1", "127.1.0.2"]);
    assert_eq!(data(&server, NAME, RecordType::AAAA).await, ["::1"]);

    zone.set_a(NAME, &[ip(3)], 7);
    assert_eq!(data(&server, NAME, RecordType::A).await, ["127.1.0.3"]);

    zone.remove(NAME);
    assert_eq!(code(&server, NAME).await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn nothing_found_comes_with_an_soa_and_tells_no_data_from_no_name() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_empty(NAME);
    let empty = ask(&server, NAME, RecordType::A).await;
    assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
    let missing = ask(&server, "other.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    for answer in [empty, missing] {
        assert!(answer.answers.is_empty());
        let soa = &answer.authorities[0];
        assert_eq!(soa.name.to_string(), "cluster.local.");
        assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum == 5), "{soa}");
    }
}

#[tokio::test]
async fn the_spelling_of_the_question_comes_back() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_a("backend.local.", &[ip(1)], 5);
    let answer = ask(&server, "BackEnd.LOCAL.", RecordType::A).await;
    assert_eq!(answer.answers[0].name.to_ascii(), "BackEnd.LOCAL.");
    assert_eq!(server.zone().queries("backend.local", RecordType::A), 1);
}

#[tokio::test]
async fn srv_answers_bring_the_addresses_of_their_targets_which_resolve_too() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_srv(
        "_http._tcp.web.local.",
        &[("a.web.local.", 8080, ip(1)), ("b.web.local.", 8081, ip(2))],
        9,
    );
    let answer = ask(&server, "_http._tcp.web.local.", RecordType::SRV).await;
    assert_eq!(
        answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(),
        ["0 50 8080 a.web.local.", "0 50 8081 b.web.local."]
    );
    let additional = |index: usize| {
        (answer.additionals[index].name.to_string(), answer.additionals[index].data.to_string())
    };
    assert_eq!(additional(0), ("a.web.local.".to_owned(), "127.1.0.1".to_owned()));
    assert_eq!(additional(1), ("b.web.local.".to_owned(), "127.1.0.2".to_owned()));
    assert_eq!(data(&server, "b.web.local.", RecordType::A).await, ["127.1.0.2"]);
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_truncated_and_whole_over_tcp() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let addresses: Vec<IpAddr> = (0..200).map(ip).collect();
    server.zone().set_a(NAME, &addresses, 5);

    let answer = ask(&server, NAME, RecordType::A).await;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.len() < 200);

    let answers =
        tcp(server.address(), &[query(NAME, RecordType::A), query(NAME, RecordType::AAAA)]).await.unwrap();
    assert!(!answers[0].metadata.truncation);
    assert_eq!(answers[0].answers.len(), 200);
    assert!(answers[1].answers.is_empty(), "a connection takes several queries");
    assert_eq!(server.zone().tcp_queries(), 2);
    assert_eq!(server.zone().queries(NAME, RecordType::A), 2);
    assert_eq!(server.zone().all_queries(), 3);
}

#[tokio::test]
async fn a_headless_service_looks_as_coredns_shows_it() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let service = Service::new(NAME).ttl(30);
    let named = Pod::named("backend-0", (ip(1), 10000).into());
    let unnamed = Pod::unnamed((ip(2), 10001).into());
    service.publish_pods(server.zone(), &[named.clone(), unnamed.clone()]);

    assert_eq!(service.pod_name(&named), format!("backend-0.{NAME}"));
    assert_eq!(service.pod_name(&unnamed), format!("127-1-0-2.{NAME}"));
    assert_eq!(data(&server, NAME, RecordType::A).await, ["127.1.0.1", "127.1.0.2"]);
    assert_eq!(ask(&server, NAME, RecordType::A).await.answers[0].ttl, 30);
    let targets = [format!("0 50 10000 backend-0.{NAME}"), format!("0 50 10001 127-1-0-2.{NAME}")];
    assert_eq!(service.srv_name(), format!("_http._tcp.{NAME}"));
    assert_eq!(data(&server, &service.srv_name(), RecordType::SRV).await, targets);
    assert_eq!(data(&server, NAME, RecordType::SRV).await, targets);
    assert_eq!(data(&server, &service.pod_name(&named), RecordType::A).await, ["127.1.0.1"]);
    assert_eq!(
        data(&server, "1.0.1.127.in-addr.arpa.", RecordType::PTR).await,
        [format!("backend-0.{NAME}")]
    );

    service.publish_pods(server.zone(), &[unnamed]);
    assert_eq!(data(&server, NAME, RecordType::A).await, ["127.1.0.2"]);
    assert_eq!(code(&server, &service.pod_name(&named)).await, ResponseCode::NXDomain);
    assert_eq!(code(&server, "1.0.1.127.in-addr.arpa.").await, ResponseCode::NXDomain);

    service.publish_pods(server.zone(), &[]);
    assert_eq!(code(&server, NAME).await, ResponseCode::NXDomain);
    assert_eq!(code(&server, &service.srv_name()).await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_virtual_ip_points_back_to_the_service_itself() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let service = Service::new("backend-service.default.svc.cluster.local").port_name("web");
    service.publish_virtual_ip(server.zone(), (ip(9), 10000).into());
    assert_eq!(data(&server, service.name(), RecordType::A).await, ["127.1.0.9"]);
    assert_eq!(data(&server, "9.0.1.127.in-addr.arpa.", RecordType::PTR).await, [service.name()]);
    let srv = format!("0 100 10000 {}", service.name());
    assert_eq!(data(&server, &format!("_web._tcp.{}", service.name()), RecordType::SRV).await, [srv]);

    service.publish_pods(server.zone(), &[Pod::unnamed((ip(1), 10000).into())]);
    assert_eq!(data(&server, service.name(), RecordType::A).await, ["127.1.0.1"]);
    assert_eq!(code(&server, "9.0.1.127.in-addr.arpa.").await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn failures_come_and_heal() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let zone = server.zone();
    zone.set_a(NAME, &[ip(1)], 5);
    zone.set_a("healthy.local.", &[ip(2)], 5);

    zone.fail(NAME, Failure::ServFail);
    assert_eq!(code(&server, NAME).await, ResponseCode::ServFail);
    assert_eq!(code(&server, "healthy.local.").await, ResponseCode::NoError);

    zone.fail_all(Failure::Refused);
    assert_eq!(code(&server, "healthy.local.").await, ResponseCode::Refused);
    assert_eq!(code(&server, NAME).await, ResponseCode::ServFail, "a failure of the name goes first");

    zone.heal();
    assert_eq!(code(&server, NAME).await, ResponseCode::NoError);
    assert_eq!(code(&server, "healthy.local.").await, ResponseCode::NoError);
}

#[tokio::test]
async fn garbage_has_the_right_id_and_nothing_else() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().fail_all(Failure::Garbage);
    let query = query(NAME, RecordType::A);
    let answer = udp(server.address(), &query).await;
    assert_eq!(answer[..2], query.metadata.id.to_be_bytes());
    assert!(Message::from_vec(&answer).is_err());
}

#[tokio::test]
async fn a_truncating_server_gives_no_record_and_no_tcp() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_a(NAME, &[ip(1)], 5);
    server.zone().fail(NAME, Failure::Truncate);
    let answer = ask(&server, NAME, RecordType::A).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert!(tcp(server.address(), &[query(NAME, RecordType::A)]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_says_nothing_but_counts() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_a(NAME, &[ip(1)], 5);
    server.zone().fail_all(Failure::Silent);
    let query = query(NAME, RecordType::A);
    assert!(timeout(Duration::from_secs(10), udp(server.address(), &query)).await.is_err());
    assert!(timeout(Duration::from_secs(10), tcp(server.address(), &[query])).await.is_err());
    assert_eq!(server.zone().queries(NAME, RecordType::A), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_delays_each_answer_by_itself() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    server.zone().set_a(NAME, &[ip(1)], 5);
    server.zone().delay(Duration::from_secs(3));
    let started = Instant::now();
    let both = tokio::join!(ask(&server, NAME, RecordType::A), ask(&server, NAME, RecordType::A));
    assert_eq!(both.0.answers.len() + both.1.answers.len(), 2);
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn dropping_the_server_frees_its_port() {
    let server = DnsServer::start(Zone::new()).await.unwrap();
    let address = server.address();
    assert!(DnsServer::start_on(Zone::new(), address).await.is_err(), "taken while it runs");
    drop(server);
    // The sockets close when the runtime comes round to the ended tasks.
    let again = timeout(Duration::from_secs(5), async {
        loop {
            match DnsServer::start_on(Zone::new(), address).await {
                Ok(server) => return server,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(again.await.unwrap().address(), address);
}
