//! The resolver that asks real servers, over hickory's UDP and TCP clients.
//!
//! hickory's own `Resolver` is not used: it caches, answers `localhost` and 127.in-addr.arpa by itself, does not go on to
//! the next server after SERVFAIL, and forgets that an answer was truncated when TCP fails.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};
use tokio::time::Instant;

use crate::resolv_conf::{ResolvConf, absolute};
use crate::resolver::{Data, Kind, Lookup, LookupError, Question, Record, Resolver, Response};

/// For one server over one transport; lost UDP packets are sent again within it (after 333 ms, three in all).
const TIMEOUT: Duration = Duration::from_secs(2);
/// Passes every path unfragmented (dnsflagday.net/2020, RFC 9715).
const EDNS_PAYLOAD: u16 = 1232;
/// resolv.conf is looked at again after this time at the earliest.
const RELOAD: Duration = Duration::from_secs(2);

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The file cannot be read and no servers were given.
    #[error("{}: cannot be read: {reason}; set dns.servers, or dns.resolv_conf to a file that can", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file has no `nameserver` line that can be used and no servers were given.
    #[error("{}: has no nameserver that can be used; add one, or set dns.servers", .0.display())]
    NoServers(PathBuf),
}

/// The hickory-backed resolver: servers given, or those of a resolv.conf that is read again when it changes; the search
/// list always from resolv.conf. Must be used within a tokio runtime.
///
/// # Errors
/// When there is no server to ask.
pub fn hickory(
    servers: Option<Vec<SocketAddr>>,
    resolv_conf: PathBuf,
) -> Result<Arc<dyn Resolver>, ResolverError> {
    let fixed = servers.filter(|servers| !servers.is_empty());
    let text = match (std::fs::read(&resolv_conf), &fixed) {
        (Ok(text), _) => text,
        (Err(_), Some(_)) => Vec::new(),
        (Err(reason), None) => return Err(ResolverError::Unreadable { path: resolv_conf, reason }),
    };
    let system = Arc::new(ResolvConf::parse(&text));
    let servers: Arc<[SocketAddr]> = fixed.clone().unwrap_or_else(|| servers_of(&system)).into();
    if servers.is_empty() {
        return Err(ResolverError::NoServers(resolv_conf));
    }
    Ok(Arc::new(DnsClient {
        fixed: fixed.is_some(),
        path: resolv_conf,
        loaded: Mutex::new(Loaded { text, system, servers, looked_at: Instant::now() }),
        first: AtomicUsize::new(0),
        provider: TokioRuntimeProvider::default(),
    }))
}

fn servers_of(system: &ResolvConf) -> Vec<SocketAddr> {
    system.servers.iter().map(|ip| SocketAddr::new(*ip, 53)).collect()
}

struct DnsClient {
    fixed: bool,
    path: PathBuf,
    loaded: Mutex<Loaded>,
    /// The server that is asked first: the one that answered last.
    first: AtomicUsize,
    provider: TokioRuntimeProvider,
}

#[derive(Clone)]
struct Loaded {
    text: Vec<u8>,
    system: Arc<ResolvConf>,
    servers: Arc<[SocketAddr]>,
    looked_at: Instant,
}

impl Loaded {
    /// Takes over what a changed file says. The file is less than a page: reading it is as cheap as asking for its time.
    fn reload(&mut self, path: &Path, fixed: bool) {
        let Ok(text) = std::fs::read(path) else { return };
        if text == self.text {
            return;
        }
        let system = ResolvConf::parse(&text);
        self.text = text;
        let servers = servers_of(&system);
        if !fixed && servers.is_empty() {
            tracing::warn!(target: "whichpod::discovery", file = %path.display(), "changed and has no nameserver now: the servers it had are asked on");
        } else if !fixed {
            self.servers = servers.into();
        }
        tracing::info!(target: "whichpod::discovery", file = %path.display(), servers = ?self.servers, search = ?system.search, "resolv.conf changed");
        self.system = Arc::new(system);
    }
}

impl Resolver for DnsClient {
    fn lookup(&self, question: Question) -> Lookup<'_> {
        Box::pin(self.ask_servers(question))
    }

    fn system(&self) -> Arc<ResolvConf> {
        self.loaded().system
    }
}

impl DnsClient {
    fn loaded(&self) -> Loaded {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.looked_at.elapsed() >= RELOAD {
            loaded.looked_at = Instant::now();
            loaded.reload(&self.path, self.fixed);
        }
        Loaded { text: Vec::new(), ..loaded.clone() }
    }

    /// Each server once, beginning with the one that answered last, until one answers (as glibc, which also goes on
    /// after SERVFAIL and REFUSED).
    async fn ask_servers(&self, question: Question) -> Result<Response, LookupError> {
        let name = wire_name(&question)?;
        let servers = self.loaded().servers;
        let first = self.first.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        for turn in 0..servers.len() {
            let at = first.wrapping_add(turn) % servers.len();
            match self.ask_server(servers[at], &question, &name).await {
                Ok(response) => return Ok(response),
                Err(reason) => reasons.push(reason),
            }
            self.first.store(at + 1, Ordering::Relaxed);
        }
        Err(LookupError(reasons.join("; ")))
    }

    /// UDP, then TCP if the answer did not fit.
    async fn ask_server(
        &self,
        server: SocketAddr,
        question: &Question,
        name: &Name,
    ) -> Result<Response, String> {
        let asked = format!("{} {}", question.kind, question.name);
        if question.whole {
            let answer = self.over_tcp(server, request(question.kind, name, true)).await;
            let answer = answer.map_err(|error| describe(server, "TCP", &asked, &error))?;
            return read(server, question, name, &answer);
        }
        let mut answer = self.over_udp(server, request(question.kind, name, true)).await;
        if matches!(&answer, Ok(answer) if answer.response_code == ResponseCode::FormErr) {
            // A server that does not know EDNS (RFC 6891 §7).
            answer = self.over_udp(server, request(question.kind, name, false)).await;
        }
        let mut answer = answer.map_err(|error| describe(server, "UDP", &asked, &error))?;
        if answer.truncation {
            answer = self.over_tcp(server, request(question.kind, name, true)).await.map_err(|error| {
                format!(
                    "the answer for {asked} is too big for UDP, and TCP failed: {}; allow TCP to port {} of the DNS server",
                    describe(server, "TCP", &asked, &error),
                    server.port()
                )
            })?;
        }
        read(server, question, name, &answer)
    }

    /// From a fresh socket with a port of the kernel's choice: others of the pod's own range would be taken from the app.
    async fn over_udp(&self, server: SocketAddr, request: DnsRequest) -> Result<DnsResponse, NetError> {
        UdpClientStream::builder(server, self.provider.clone())
            .with_timeout(Some(TIMEOUT))
            .with_os_port_selection(true)
            .build()
            .send_message(request)
            .first_answer()
            .await
    }

    /// On a connection of its own: answers this big are rare, and servers close idle connections.
    async fn over_tcp(&self, server: SocketAddr, request: DnsRequest) -> Result<DnsResponse, NetError> {
        TcpClientStream::exchange(server, None, TIMEOUT, None, self.provider.clone())
            .await?
            .send(request)
            .first_answer()
            .await
    }
}

fn request(kind: Kind, name: &Name, edns: bool) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = edns;
    options.edns_payload_len = EDNS_PAYLOAD;
    options.recursion_desired = true;
    DnsRequest::from_query(Query::query(name.clone(), wire_type(kind)), options)
}

fn wire_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Srv => RecordType::SRV,
        Kind::Ptr => RecordType::PTR,
    }
}

fn describe(server: SocketAddr, transport: &str, asked: &str, error: &NetError) -> String {
    match error {
        NetError::Timeout => {
            let seconds = TIMEOUT.as_secs();
            format!("DNS server {server} did not answer {asked} over {transport} within {seconds} s")
        }
        NetError::Io(error) => {
            format!("DNS server {server} cannot be asked for {asked} over {transport}: {error}")
        }
        error => {
            format!("DNS server {server} sent for {asked} over {transport} what cannot be read: {error}")
        }
    }
}

/// Reads a message of `server` as the answer to a question.
///
/// # Errors
/// What is wrong with it, or with the question's name.
pub fn read_message(
    server: SocketAddr,
    question: &Question,
    bytes: Vec<u8>,
) -> Result<Response, LookupError> {
    let name = wire_name(question)?;
    let answer = DnsResponse::from_buffer(bytes).map_err(|error| LookupError(error.to_string()))?;
    read(server, question, &name, &answer).map_err(LookupError)
}

fn wire_name(question: &Question) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{}.", question.name))
        .map_err(|error| LookupError(format!("{} is no DNS name: {error}", question.name)))
}

/// From the wire to plain values; only complete answers to the question that was asked.
fn read(
    server: SocketAddr,
    question: &Question,
    name: &Name,
    answer: &DnsResponse,
) -> Result<Response, String> {
    let asked = format!("{} {}", question.kind, question.name);
    let nxdomain = match answer.response_code {
        ResponseCode::NoError => false,
        ResponseCode::NXDomain => true,
        code => return Err(format!("DNS server {server} answered {asked} with {}", code_name(code))),
    };
    if answer.truncation {
        return Err(format!("the answer of DNS server {server} for {asked} is too big even for TCP"));
    }
    let ours = |query: &Query| query.name() == name && query.query_type() == wire_type(question.kind);
    if !answer.queries.first().is_some_and(ours) {
        return Err(format!("DNS server {server} answered another question than {asked}"));
    }
    let records = |records: &[WireRecord]| -> Vec<Record> {
        records.iter().filter_map(|record| plain(record, name, &question.name)).collect()
    };
    Ok(Response { nxdomain, answers: records(&answer.answers), additionals: records(&answer.additionals) })
}

fn plain(record: &WireRecord, asked: &Name, asked_name: &Arc<str>) -> Option<Record> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    // Most records are about the name that was asked: no new text for each of a thousand.
    let text = |name: &Name| {
        if name == asked { Arc::clone(asked_name) } else { absolute(&name.to_ascii()).into() }
    };
    let data = match &record.data {
        RData::A(ip) => Data::from(ip.0),
        RData::AAAA(ip) => Data::from(ip.0),
        RData::CNAME(name) => Data::Cname(text(&name.0)),
        RData::PTR(name) => Data::Ptr(text(&name.0)),
        RData::SRV(srv) => Data::Srv { priority: srv.priority, port: srv.port, target: text(&srv.target) },
        _ => return None,
    };
    Some(Record { name: text(&record.name), ttl: record.ttl, data })
}

/// The names that operators know from `dig`.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        code => format!("code {} ({code})", u16::from(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::Message;
    use proptest::prelude::*;

    use super::*;

    fn question() -> (Question, Name) {
        let name = "web.shop.svc.cluster.local";
        (
            Question { name: name.into(), kind: Kind::A, whole: false },
            Name::from_ascii(format!("{name}.")).unwrap(),
        )
    }

    fn client(path: &Path, fixed: bool) -> DnsClient {
        DnsClient {
            fixed,
            path: path.into(),
            loaded: Mutex::new(Loaded {
                text: Vec::new(),
                system: Arc::default(),
                servers: Arc::new([SocketAddr::from(([10, 0, 0, 1], 53))]),
                looked_at: Instant::now(),
            }),
            first: AtomicUsize::new(0),
            provider: TokioRuntimeProvider::default(),
        }
    }

    #[test]
    fn without_servers_there_is_an_error_with_a_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "search example.com\n").unwrap();
        let error = hickory(None, file.path().into()).err().unwrap().to_string();
        assert!(error.contains("no nameserver") && error.contains("dns.servers"), "{error}");
        let error = hickory(Some(Vec::new()), "/nonexistent".into()).err().unwrap().to_string();
        assert!(error.contains("/nonexistent") && error.contains("dns.servers"), "{error}");
        let given = hickory(Some(vec![SocketAddr::from(([10, 0, 0, 1], 5353))]), file.path().into()).unwrap();
        assert_eq!(given.system().search, ["example.com"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_resolv_conf_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (plain, fixed) = (client(file.path(), false), client(file.path(), true));
        let servers = |client: &DnsClient| -> Vec<IpAddr> {
            client.loaded().servers.iter().map(SocketAddr::ip).collect()
        };
        let old = [IpAddr::from([10, 0, 0, 1])];
        let before = plain.system();
        std::fs::write(file.path(), "nameserver 10.0.0.2\nsearch a.example\n").unwrap();
        assert_eq!(servers(&plain), old, "not looked at more than once in two seconds");
        assert!(Arc::ptr_eq(&before, &plain.system()));
        tokio::time::advance(RELOAD).await;
        assert_eq!(servers(&plain), [IpAddr::from([10, 0, 0, 2])]);
        let system = plain.system();
        assert_eq!(system.search, ["a.example"]);
        tokio::time::advance(RELOAD).await;
        assert!(
            Arc::ptr_eq(&system, &plain.system()),
            "a file that stays the same is not taken for a new one"
        );
        assert_eq!(servers(&fixed), old, "servers that were given stay");
        assert_eq!(fixed.system().search, ["a.example"]);

        for broken in ["", "search b.example\n"] {
            std::fs::write(file.path(), broken).unwrap();
            tokio::time::advance(RELOAD).await;
            assert_eq!(servers(&plain), [IpAddr::from([10, 0, 0, 2])], "a file without servers loses none");
        }
        file.close().unwrap();
        tokio::time::advance(RELOAD).await;
        assert_eq!(plain.system().search, ["b.example"], "a file that is gone changes nothing");
    }

    fn try_read(bytes: Vec<u8>) -> Option<Response> {
        read_message(SocketAddr::from(([10, 0, 0, 1], 53)), &question().0, bytes).ok()
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            try_read(bytes);
        }

        #[test]
        fn a_message_with_any_bytes_changed_is_read_without_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut in any::<prop::sample::Index>()
        ) {
            let (question, name) = question();
            let mut message = Message::response(7, hickory_proto::op::OpCode::Query);
            message.add_query(Query::query(name.clone(), RecordType::A));
            for last in 0..4 {
                message.add_answer(WireRecord::from_rdata(name.clone(), 30, RData::A(std::net::Ipv4Addr::new(10, 0, 0, last).into())));
            }
            message.add_answer(WireRecord::from_rdata(name.clone(), 30, RData::CNAME(hickory_proto::rr::rdata::CNAME(name))));
            let mut bytes = message.to_vec().unwrap();
            if changes.is_empty() {
                let response = try_read(bytes.clone()).expect("the message as it is");
                prop_assert_eq!(response.answers.len(), 5);
                prop_assert!(response.answers.iter().all(|record| record.name == question.name));
            }
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            try_read(bytes.clone());
            bytes.truncate(cut.index(bytes.len()));
            try_read(bytes);
        }
    }
}
