//! From the bytes of a query to those of its answer; no I/O.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::{Contents, Failure, Records, ServiceRecord, Zone};

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do about a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Bytes(Vec<u8>),
    Silence,
    /// TCP only; over UDP nothing can be closed, so it is silence.
    Close,
}

/// The most that goes into one UDP answer, whatever the client advertises, as with real servers.
const UDP_LIMIT: usize = 4096;
/// Without EDNS (RFC 1035 §2.3.4).
const UDP_LIMIT_WITHOUT_EDNS: u16 = 512;
/// What this server advertises itself.
const UDP_PAYLOAD: u16 = 1232;
/// Of pointers and of negative answers, in seconds: CoreDNS's default.
const TTL: u32 = 5;

/// Answers a query from the zone, and counts it there.
pub(super) fn reply(zone: &Zone, request: &[u8], transport: Transport) -> Reply {
    let Ok(message) = Message::from_vec(request) else { return malformed(request) };
    if message.metadata.message_type != MessageType::Query {
        return Reply::Silence;
    }
    let (failure, answer) = zone.edit(|contents| match message.queries.as_slice() {
        [query] if message.metadata.op_code == OpCode::Query => {
            let name = query.name().to_ascii();
            contents.count(&name, query.query_type(), transport == Transport::Tcp);
            (contents.failure(&name), answer(contents, query))
        }
        [_] => (None, Ok(Answer::code(ResponseCode::NotImp))),
        _ => (None, Ok(Answer::code(ResponseCode::FormErr))),
    });
    let answer = match failure {
        // A name or target that cannot be written as DNS does not become an answer.
        None => answer.unwrap_or_else(|_| Answer::code(ResponseCode::ServFail)),
        Some(Failure::ServFail) => Answer::code(ResponseCode::ServFail),
        Some(Failure::Refused) => Answer::code(ResponseCode::Refused),
        Some(Failure::Silent) => return Reply::Silence,
        Some(Failure::Garbage) => return garbage(request),
        Some(Failure::Truncate) if transport == Transport::Tcp => return Reply::Close,
        Some(Failure::Truncate) => Answer { truncated: true, ..Answer::code(ResponseCode::NoError) },
    };
    let limit = match (transport, &message.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => usize::from(UDP_LIMIT_WITHOUT_EDNS),
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.max_payload().max(UDP_LIMIT_WITHOUT_EDNS)).min(UDP_LIMIT)
        }
    };
    encode(answer.into_message(&message), limit).map_or(Reply::Silence, Reply::Bytes)
}

#[derive(Debug)]
struct Answer {
    code: ResponseCode,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Answer {
    fn code(code: ResponseCode) -> Self {
        Self { code, truncated: false, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }

    fn into_message(self, request: &Message) -> Message {
        let mut message = Message::response(request.metadata.id, request.metadata.op_code);
        message.metadata = Metadata::response_from_request(&request.metadata);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = true;
        message.metadata.response_code = self.code;
        message.metadata.truncation = self.truncated;
        message.queries.clone_from(&request.queries);
        message.answers = self.answers;
        message.authorities = self.authorities;
        message.additionals = self.additionals;
        message.edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            edns
        });
        message
    }
}

fn answer(contents: &Contents, query: &Query) -> Result<Answer, ProtoError> {
    // The owner keeps the question's spelling: clients may vary it and check (0x20).
    let name = query.name();
    let Some(records) = contents.find(&name.to_ascii()) else {
        let authorities = vec![authority(name)?];
        return Ok(Answer { authorities, ..Answer::code(ResponseCode::NXDomain) });
    };
    let (answers, additionals) = match query.query_type() {
        RecordType::SRV => (srv_records(name, &records)?, srv_addresses(&records)?),
        RecordType::PTR => (pointers(name, &records)?, Vec::new()),
        kind => {
            let ttl = records.addresses_ttl;
            let all =
                records.addresses.iter().map(|ip| Record::from_rdata(name.clone(), ttl, address_data(*ip)));
            (all.filter(|record| record.record_type() == kind).collect(), Vec::new())
        }
    };
    let authorities = if answers.is_empty() { vec![authority(name)?] } else { Vec::new() };
    Ok(Answer { answers, authorities, additionals, ..Answer::code(ResponseCode::NoError) })
}

fn srv_records(name: &Name, records: &Records) -> Result<Vec<Record>, ProtoError> {
    // CoreDNS shares 100 among the records of an answer, each at least 1.
    let weight = (100 / records.services.len().max(1)).max(1).try_into().unwrap_or(1);
    let record = |record: &ServiceRecord| {
        let target = Name::from_ascii(&record.target)?;
        let data = RData::SRV(SRV::new(0, weight, record.port, target));
        Ok(Record::from_rdata(name.clone(), records.services_ttl, data))
    };
    records.services.iter().map(record).collect()
}

fn srv_addresses(records: &Records) -> Result<Vec<Record>, ProtoError> {
    let record = |record: &ServiceRecord| {
        let target = Name::from_ascii(&record.target)?;
        Ok(Record::from_rdata(target, records.services_ttl, address_data(record.address)))
    };
    records.services.iter().map(record).collect()
}

fn pointers(name: &Name, records: &Records) -> Result<Vec<Record>, ProtoError> {
    let record = |target: &String| {
        Ok(Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(Name::from_ascii(target)?))))
    };
    records.pointers.iter().map(record).collect()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// The SOA record that a negative answer carries (RFC 2308 §3).
fn authority(name: &Name) -> Result<Record, ProtoError> {
    let cluster = Name::from_ascii("cluster.local.")?;
    let owner = if cluster.zone_of(name) { cluster } else { Name::root() };
    let server = Name::from_ascii("ns.dns.cluster.local.")?;
    let mailbox = Name::from_ascii("hostmaster.cluster.local.")?;
    let data = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL);
    Ok(Record::from_rdata(owner, TTL, RData::SOA(data)))
}

/// The message's bytes; what does not fit is left out from the end, and TC says so (RFC 1035 §4.1.1, RFC 6891 §4.3).
fn encode(mut message: Message, limit: usize) -> Option<Vec<u8>> {
    if let Some(bytes) = encode_whole(&message, limit) {
        return Some(bytes);
    }
    message.metadata.truncation = true;
    message.additionals.clear();
    let answers = std::mem::take(&mut message.answers);
    let with = |count: usize| {
        let mut message = message.clone();
        message.answers = answers[..count].to_vec();
        encode_whole(&message, limit)
    };
    let mut fitting = with(0)?;
    let (mut low, mut high) = (0, answers.len());
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match with(middle) {
            Some(bytes) => (fitting, low) = (bytes, middle),
            None => high = middle - 1,
        }
    }
    Some(fitting)
}

fn encode_whole(message: &Message, limit: usize) -> Option<Vec<u8>> {
    const TRUNCATED: u8 = 0b10;
    let bytes = message.to_vec().ok()?;
    // Beyond 64 KiB the encoder leaves records out by itself, and says so only in the bytes.
    let cut = bytes.get(2).is_none_or(|flags| flags & TRUNCATED != 0) && !message.metadata.truncation;
    (bytes.len() <= limit && !cut).then_some(bytes)
}

/// FORMERR with the query's id if there is one to be seen; never to an answer, lest two servers talk forever.
fn malformed(request: &[u8]) -> Reply {
    const IS_RESPONSE: u8 = 0b1000_0000;
    match request {
        [first, second, flags, ..] if request.len() >= 12 && flags & IS_RESPONSE == 0 => {
            let id = u16::from_be_bytes([*first, *second]);
            let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Reply::Silence, Reply::Bytes)
        }
        _ => Reply::Silence,
    }
}

fn garbage(request: &[u8]) -> Reply {
    let mut bytes: Vec<u8> = request.iter().take(2).copied().collect();
    bytes.extend([0xFF; 30]);
    Reply::Bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 0xBEEF;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        message.to_vec().unwrap()
    }

    fn ask(zone: &Zone, query: &[u8], transport: Transport) -> (Message, usize) {
        match reply(zone, query, transport) {
            Reply::Bytes(bytes) => (Message::from_vec(&bytes).unwrap(), bytes.len()),
            other => panic!("{other:?}"),
        }
    }

    /// A zone whose SRV name `srv.` has so many targets, as many as `a.` has addresses.
    fn crowded(count: u16) -> Zone {
        let zone = Zone::new();
        let ip = |index: u16| IpAddr::from([127, 1, index.to_be_bytes()[0], index.to_be_bytes()[1]]);
        let names: Vec<String> = (0..count).map(|index| format!("pod-{index}.backend.local.")).collect();
        let targets: Vec<_> =
            names.iter().zip(0..).map(|(name, index)| (name.as_str(), 8080, ip(index))).collect();
        zone.set_srv("srv.", &targets, 5);
        zone.set_a("a.", &(0..count).map(ip).collect::<Vec<_>>(), 5);
        zone
    }

    #[test]
    fn an_answer_is_as_long_as_the_client_allows_and_says_so_when_cut() {
        let zone = crowded(200);
        let sizes = [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65535), 4096)];
        for (edns, limit) in sizes {
            let (message, length) = ask(&zone, &query("a.", RecordType::A, edns), Transport::Udp);
            // One A record more would take 16 bytes.
            let full = length <= limit && length + 16 > limit;
            assert_eq!(message.metadata.truncation, 200 > message.answers.len());
            assert!(full || message.answers.len() == 200, "{length} of {limit}");
            assert_eq!(message.edns.is_some(), edns.is_some());
        }
        let (message, _) = ask(&zone, &query("a.", RecordType::A, None), Transport::Tcp);
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len(), 200);
    }

    #[test]
    fn even_tcp_has_a_limit() {
        let (message, length) = ask(&crowded(5000), &query("a.", RecordType::A, None), Transport::Tcp);
        assert!(message.metadata.truncation);
        assert!(length <= 65535 && length > 65535 - 16, "{length}");
    }

    #[test]
    fn what_is_no_single_query_gets_an_error_of_its_own() {
        let zone = crowded(1);
        let whole = query("a.", RecordType::A, None);

        let (answer, _) = ask(&zone, &whole[..14], Transport::Udp);
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (0xBEEF, ResponseCode::FormErr));
        assert_eq!(reply(&zone, &whole[..11], Transport::Udp), Reply::Silence);

        let mut message = Message::from_vec(&whole).unwrap();
        message.metadata.message_type = MessageType::Response;
        assert_eq!(reply(&zone, &message.to_vec().unwrap(), Transport::Udp), Reply::Silence);

        message.metadata.message_type = MessageType::Query;
        message.metadata.op_code = OpCode::Status;
        let (answer, _) = ask(&zone, &message.to_vec().unwrap(), Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);

        message.metadata.op_code = OpCode::Query;
        message.queries.clear();
        let (answer, _) = ask(&zone, &message.to_vec().unwrap(), Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    }

    #[test]
    fn a_name_that_dns_cannot_write_is_a_server_failure_not_a_panic() {
        let zone = Zone::new();
        zone.set_srv("srv.", &[("bad..name", 80, IpAddr::from([127, 0, 0, 2]))], 5);
        let (answer, _) = ask(&zone, &query("srv.", RecordType::SRV, None), Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    proptest! {
        #[test]
        fn no_bytes_from_the_network_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = reply(&crowded(1), &bytes, Transport::Udp);
        }

        #[test]
        fn a_damaged_query_never_panics(index in 0_usize..40, value in any::<u8>()) {
            let mut bytes = query("srv.", RecordType::SRV, Some(1232));
            let index = index % bytes.len();
            bytes[index] = value;
            let _ = reply(&crowded(3), &bytes, Transport::Tcp);
        }

        #[test]
        fn no_answer_is_longer_than_allowed_and_none_is_cut_silently(count in 0_u16..120, size in 0_u16..6000) {
            let (message, length) = ask(&crowded(count), &query("srv.", RecordType::SRV, Some(size)), Transport::Udp);
            prop_assert!(length <= usize::from(size).clamp(512, 4096));
            let whole = message.answers.len() == usize::from(count) && message.additionals.len() == usize::from(count);
            prop_assert_eq!(message.metadata.truncation, !whole);
        }
    }
}
