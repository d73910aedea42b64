//! A line allocates nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use allocation_counter::measure;
use support::{compile, headers, record, request_headers};
use whichpod_access_log::{Needs, Scratch};

#[test]
fn writing_a_line_allocates_nothing() {
    let all = "%START_TIME(%d/%b/%Y:%H:%M:%S.%6f %z)% %REQ_WITHOUT_QUERY(:PATH)% %QUERY_PARAM(q)% %RESPONSE_FLAGS_LONG% \
               %UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)% %STREAM_ID% %UNIQUE_ID% \
               %GRPC_STATUS% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% %UPSTREAM_TRANSPORT_FAILURE_REASON%";
    for text in ["text", "json", "nginx", "otel", "ecs", all] {
        let format = compile(text).format;
        let mut record = record();
        Needs::capture(&format.needs().request_headers, &request_headers(), &mut record.request_headers);
        Needs::capture(&format.needs().response_headers, &headers(&[]), &mut record.response_headers);
        record.downstream_remote = "[2001:db8::1]:443".parse().ok();
        let mut scratch = Scratch::default();
        let mut line = Vec::with_capacity(1 << 20);
        format.write(&record, &mut scratch, &mut line);
        let counted = measure(|| {
            for _ in 0..100 {
                // Another second each time, and hostile values on the slow path.
                record.start += Duration::from_millis(700);
                format.write(&record, &mut scratch, &mut line);
            }
        });
        assert_eq!(counted.count_total, 0, "{text}");
        assert!(line.len() > 100 * 100);
    }
}
