//! What of a head reaches the other side.

use super::*;
use http::Request;

fn request(version: Version, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().version(version).uri(uri);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn prepared(version: Version, uri: &str, fields: &[(&str, &str)]) -> Result<Parts, Failure> {
    let mut head = request(version, uri, fields);
    prepared_for(Version::HTTP_11, &mut head, false).map(|()| head)
}

fn prepared_for(pod: Version, head: &mut Parts, has_body: bool) -> Result<(), Failure> {
    let limits = Limits::default();
    prepare(head, &HeaderValue::from_static("backend:10000"), limits, pod, has_body)
}

fn v11(fields: &[(&str, &str)]) -> Result<Parts, Failure> {
    prepared(Version::HTTP_11, "/x", fields)
}

#[test]
fn an_ambiguous_request_never_reaches_a_pod() {
    let bad: &[&[(&str, &str)]] = &[
        &[],
        &[("host", "a"), ("host", "a")],
        &[("host", "a b")],
        &[("host", "a/b")],
        &[("host", "a@b")],
        &[("host", "[::1")],
        &[("host", "[::1]x")],
        &[("host", "[nonsense]")],
        &[("host", "a:port")],
        &[("host", "a:123456")],
        &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
        &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        &[("host", "a"), ("transfer-encoding", "xchunked")],
        &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")],
        &[("host", "a"), ("content-length", "3"), ("content-length", "3")],
    ];
    for fields in bad {
        assert!(matches!(v11(fields), Err(Failure::BadRequest(_))), "{fields:?}");
    }
}

#[test]
fn two_lengths_are_refused_from_http_2_too() {
    for second in ["3", "5"] {
        let fields = [("content-length", "3"), ("content-length", second)];
        let head = prepared(Version::HTTP_2, "http://a/", &fields);
        assert!(matches!(head, Err(Failure::BadRequest(_))), "{second}");
    }
}

#[test]
fn a_target_that_is_only_a_fragment_reaches_the_pod_as_a_path() {
    for (version, target) in
        [(Version::HTTP_11, "http://a#b"), (Version::HTTP_2, "http://a#b"), (Version::HTTP_11, "http://a")]
    {
        let head = prepared(version, target, &[("host", "a")]).unwrap();
        assert_eq!(head.uri.to_string(), "/", "{target}");
    }
}

#[test]
fn usual_hosts_pass() {
    for host in ["a", "a:80", "10.0.0.1:8080", "[::1]", "[fe80::1]:80", "", "a_b.c-d", "a:"] {
        let host = [("host", host)];
        assert!(v11(&host).is_ok(), "{host:?}");
    }
}

#[test]
fn an_http_1_0_client_without_host_still_reaches_a_virtual_host() {
    let head = prepared(Version::HTTP_10, "/", &[]).unwrap();
    assert_eq!(head.headers["host"], "backend:10000");
    assert_eq!(head.version, Version::HTTP_11);
}

#[test]
fn an_absolute_target_becomes_a_path_and_must_agree_with_host() {
    let head = prepared(Version::HTTP_11, "http://a:80/p?q", &[("host", "A:80")]).unwrap();
    assert_eq!(head.uri.to_string(), "/p?q");
    assert!(prepared(Version::HTTP_11, "http://b/p", &[("host", "a")]).is_err());
    assert!(prepared(Version::HTTP_11, "http://u@a/p", &[("host", "a")]).is_err());
    let head = prepared(Version::HTTP_10, "http://b/p", &[]).unwrap();
    assert_eq!(head.headers["host"], "b");
}

#[test]
fn a_request_keeps_its_meaning_from_one_version_to_the_other() {
    let fields = [("host", "a:80"), ("te", "trailers"), ("transfer-encoding", "chunked"), ("cookie", "a=1")];
    let mut head = request(Version::HTTP_11, "/p?q", &fields);
    prepared_for(Version::HTTP_2, &mut head, true).unwrap();
    assert_eq!((head.version, head.uri.to_string().as_str()), (Version::HTTP_2, "http://a:80/p?q"));
    let left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["cookie", "te"]);

    let fields = [("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let mut head = request(Version::HTTP_2, "http://a:80/p?q", &fields);
    prepared_for(Version::HTTP_11, &mut head, true).unwrap();
    assert_eq!((head.version, head.uri.to_string().as_str()), (Version::HTTP_11, "/p?q"));
    let values = ["host", "te", "connection", "cookie", "transfer-encoding"].map(|name| &head.headers[name]);
    assert_eq!(values, ["a:80", "trailers", "te", "a=1; b=2; c=3", "chunked"]);

    let mut head = request(Version::HTTP_2, "/p", &[("host", "a")]);
    prepared_for(Version::HTTP_2, &mut head, false).unwrap();
    assert_eq!((head.uri.to_string().as_str(), head.headers.len()), ("http://a/p", 0));
    let mut head = request(Version::HTTP_2, "/p", &[]);
    prepared_for(Version::HTTP_2, &mut head, false).unwrap();
    assert_eq!(head.uri.to_string(), "http://backend:10000/p");
    let mut head = request(Version::HTTP_11, "/p", &[("host", "")]);
    prepared_for(Version::HTTP_2, &mut head, false).unwrap();
    assert_eq!((head.uri.to_string().as_str(), head.headers["host"].as_bytes()), ("/p", &b""[..]));
}

#[test]
fn an_http_2_request_that_two_parsers_could_read_in_two_ways_is_malformed() {
    let bad: &[(&str, &[(&str, &str)])] = &[
        ("http://a/", &[("host", "b")]),
        ("http://a/", &[("host", "a"), ("host", "a")]),
        ("http://u@a/", &[]),
        ("/", &[("host", "a/b")]),
        ("http://a/", &[("x", " a")]),
        ("http://a/", &[("x", "a\t")]),
    ];
    for (target, fields) in bad {
        let mut head = request(Version::HTTP_2, target, fields);
        let result = prepared_for(Version::HTTP_2, &mut head, false);
        assert!(matches!(result, Err(Failure::BadRequest(_))), "{target} {fields:?}");
    }
    let many: Vec<_> = (0..101).map(|_| ("x", "1")).collect();
    let mut head = request(Version::HTTP_2, "http://a/", &many);
    assert_eq!(prepared_for(Version::HTTP_2, &mut head, false), Err(Failure::HeadTooLarge));
    let long = "x".repeat(61_440);
    let mut head = request(Version::HTTP_2, "http://a/", &[("x", &long)]);
    assert_eq!(prepared_for(Version::HTTP_2, &mut head, false), Err(Failure::HeadTooLarge));
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let head = v11(&[
        ("host", "a"),
        ("connection", "close, x-secret"),
        ("connection", "X-Other"),
        ("x-secret", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("te", "gzip"),
        ("trailer", "x-sum"),
        ("x-kept", "1"),
    ])
    .unwrap();
    let left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["host", "trailer", "x-kept"]);
}

#[test]
fn a_client_cannot_have_the_proxys_own_fields_removed() {
    let head = v11(&[
        ("host", "a"),
        ("connection", "x-forwarded-for, host, authorization, x-request-id, x-gone"),
        ("x-forwarded-for", "1.2.3.4"),
        ("authorization", "Bearer t"),
        ("x-request-id", "7"),
        ("x-gone", "1"),
    ])
    .unwrap();
    for kept in ["host", "x-forwarded-for", "authorization", "x-request-id"] {
        assert!(head.headers.contains_key(kept), "{kept}");
    }
    assert!(!head.headers.contains_key("x-gone"));
}

#[test]
fn trailers_are_asked_for_where_the_client_takes_them() {
    let head = v11(&[("host", "a"), ("te", "deflate, Trailers"), ("connection", "te")]).unwrap();
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["connection"], "te");
}

#[test]
fn expect_continue_is_answered_here_and_other_expectations_go_on() {
    assert!(!v11(&[("host", "a"), ("expect", "100-Continue")]).unwrap().headers.contains_key("expect"));
    assert!(v11(&[("host", "a"), ("expect", "tea")]).unwrap().headers.contains_key("expect"));
}

#[test]
fn a_request_id_is_kept_or_made() {
    let mut head = v11(&[("host", "a"), ("x-request-id", "mine")]).unwrap();
    ensure_request_id(&mut head.headers);
    assert_eq!(head.headers["x-request-id"], "mine");
    let mut headers = HeaderMap::new();
    ensure_request_id(&mut headers);
    let id = uuid::Uuid::try_parse(headers["x-request-id"].to_str().unwrap()).unwrap();
    assert_eq!(id.get_version_num(), 4);
}

#[test]
fn the_forwarded_chain_grows_by_the_caller() {
    let mut headers = HeaderMap::new();
    headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
    append_forwarded_for(&mut headers, "::ffff:10.0.0.2".parse().unwrap());
    assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
}

#[test]
fn a_pods_length_beside_a_coding_cannot_frame_our_answer() {
    let mut headers = HeaderMap::new();
    headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    headers.insert("content-length", HeaderValue::from_static("3"));
    assert_eq!(finish(&mut headers), Ok(Some(0)), "and the connection is not used again");
    assert!(headers.is_empty());
    headers.insert("transfer-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(finish(&mut headers), Err(Failure::UpstreamProtocol));
}

#[test]
fn the_pods_own_idle_limit_is_heard() {
    let mut headers = HeaderMap::new();
    headers.insert("keep-alive", HeaderValue::from_static("max=100, timeout=5"));
    assert_eq!(finish(&mut headers), Ok(Some(5)));
    assert!(headers.is_empty());
}

#[test]
fn only_a_valid_trace_is_believed() {
    let mut headers = HeaderMap::new();
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert("traceparent", HeaderValue::from_static(valid));
    assert_eq!(trace_id(&headers).as_ref().map(|id| &id[..4]), Some(&b"4bf9"[..]));
    for bad in ["", "00", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff-x"] {
        headers.insert("traceparent", HeaderValue::from_str(bad).unwrap());
        assert_eq!(trace_id(&headers), None, "{bad}");
    }
}
