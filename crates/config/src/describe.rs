//! What would run, for people.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::health;
use crate::kinds::print_duration;
use crate::names;
use crate::types::{
    AccessLog, Balance, CircuitBreakers, Config, Dns, HashOn, Host, LogFilter, Retry, Target, TargetPort,
    Timeouts, Tls, Upstream,
};

impl Config {
    /// What runs with this configuration, in lines for people: what `--check` prints.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = Text::default();
        for upstream in &self.upstreams {
            text.upstream(upstream);
        }
        text.dns(&self.dns);
        text.access_log(&self.access_log);
        text.head("process");
        text.line("admin", self.admin);
        let fallback =
            if self.health == names::DEFAULT_HEALTH { " (0.0.0.0 where there is no IPv6)" } else { "" };
        text.line("health", format_args!("{}{fallback}", self.health));
        match self.workers {
            Some(workers) => text.line("workers", workers),
            None => text.line("workers", "the cgroup's CPU limit, at most 2"),
        }
        let kind = if self.shutdown.native_sidecar {
            "native sidecar: leaves as soon as no request runs"
        } else {
            "ordinary container: leaves after the last connection"
        };
        let grace = print_duration(self.shutdown.grace_period);
        text.line("shutdown", format_args!("{kind}, within {grace}"));
        let limit = self
            .memory
            .limit
            .map_or_else(|| "the cgroup's limit".to_owned(), |limit| format!("{limit} bytes"));
        match self.memory.shed_at_percent {
            0 => text.line("memory", "never sheds requests"),
            percent => text.line("memory", format_args!("sheds requests from {percent} % of {limit} on")),
        }
        text.line("log level", &self.log_level);
        text.0
    }
}

/// Sections with aligned lines.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, title: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{title}");
    }

    fn line(&mut self, name: &str, value: impl fmt::Display) {
        let _ = writeln!(self.0, "  {name:<13}{value}");
    }

    fn upstream(&mut self, upstream: &Upstream) {
        let Upstream { limits, headers, .. } = upstream;
        self.head(format_args!("upstream {}", upstream.name));
        let chosen = if upstream.listen.port() == 0 { " (the kernel chooses the port)" } else { "" };
        self.line("listen", format_args!("{}{chosen}", upstream.listen));
        self.line("target", question(&upstream.target));
        match &upstream.fallback {
            Some(fallback) => {
                self.line("fallback", format_args!("{} while the target does not exist", question(fallback)));
            }
            None => self.line("fallback", "none"),
        }
        self.line(
            "resolved",
            if upstream.lazy { "at the first connection" } else { "at once; /ready waits for it" },
        );
        self.line("protocol", upstream.protocol);
        match &upstream.balance {
            Balance::Maglev(on) => self.line("balance", format_args!("maglev by {}", hashed(on))),
            balance => self.line("balance", balance),
        }
        for (name, value) in health::describe(upstream) {
            if let Some(value) = value {
                self.line(name, value);
            }
        }
        if upstream.outlier_detection.is_some() || upstream.health_check.is_some() {
            let least = upstream.healthy_panic_threshold;
            self.line("panic", format_args!("all pods are used with less than {least} % of them well"));
        }
        let routes = upstream.routes.iter().map(|route| match route.name.as_str() {
            "" => route.prefix.clone(),
            name => format!("{} ({name})", route.prefix),
        });
        match list(routes) {
            Some(routes) => self.line("routes", format_args!("{routes}; anything else is 404")),
            None => self.line("routes", "everything"),
        }
        self.line("timeouts", timeouts(&upstream.timeouts));
        self.line("retry", retry(&upstream.retry));
        let connections = limits.connections.map_or_else(String::new, |most| format!(", {most} connections"));
        self.line(
            "limits",
            format_args!(
                "head {} bytes, {} headers, {} streams a connection{connections}",
                limits.head_bytes, limits.headers, limits.streams
            ),
        );
        if let Some(breakers) = breakers(&upstream.circuit_breakers) {
            self.line("at most", breakers);
        }
        if let Some(what) = &upstream.tls {
            self.line("tls", tls(what));
        }
        if let Some(version) = upstream.proxy_protocol {
            self.line("proxy", format_args!("PROXY protocol {version}, one client to a pod's connection"));
        }
        let added = [
            (headers.append_x_forwarded_for, "x-forwarded-for (request)"),
            (headers.expose_upstream, "x-whichpod-upstream, x-whichpod-pod (response)"),
        ];
        let added = list(added.into_iter().filter(|(on, _)| *on).map(|(_, what)| what.to_owned()));
        self.line("adds headers", added.as_deref().unwrap_or("none but x-request-id"));
    }

    fn dns(&mut self, dns: &Dns) {
        self.head("dns");
        let file = dns.resolv_conf.display();
        match list(dns.servers.iter().map(ToString::to_string)) {
            Some(servers) => self.line("servers", servers),
            None => self.line("servers", format_args!("those of {file}")),
        }
        self.line("search list", format_args!("that of {file}"));
        let told = "as the search list tells";
        self.line("domain", dns.cluster_domain.as_deref().unwrap_or(told));
        self.line("namespace", dns.namespace.as_deref().unwrap_or(told));
        let (floor, cap) = (print_duration(dns.refresh_floor), print_duration(dns.refresh_cap));
        self.line("refresh", format_args!("when the TTL ends, after {floor} to {cap}"));
        self.line("empty answer", format_args!("must last {}", print_duration(dns.hold_empty)));
        self.line(
            "loopback",
            if dns.allow_loopback { "answers are accepted" } else { "answers are refused" },
        );
    }

    fn access_log(&mut self, log: &AccessLog) {
        self.head("access log");
        match &log.path {
            Some(path) => self.line("path", path.display()),
            None => self.line("path", "none (off)"),
        }
        self.line("format", log.format.escape_debug());
        self.line("lines", filter(&log.filter));
    }
}

/// `None` if there is nothing.
fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}

/// The target, and what DNS is asked for it.
fn question(target: &Target) -> String {
    match (&target.host, &target.port) {
        (Host::Ip(_), _) => format!("{target} (a fixed address)"),
        (Host::Name(_), TargetPort::Number(_)) => format!("{target} (A/AAAA)"),
        (Host::Name(name), TargetPort::Name(port)) => format!("{target} (SRV _{port}._tcp.{name})"),
    }
}

fn limit(limit: Option<Duration>) -> String {
    limit.map_or_else(|| "off".to_owned(), print_duration)
}

fn timeouts(timeouts: &Timeouts) -> String {
    format!(
        "connect {}, request {}, idle {}, head {}, client's connection {}, pod's connection {}",
        print_duration(timeouts.connect),
        limit(timeouts.request),
        limit(timeouts.idle),
        limit(timeouts.head),
        limit(timeouts.downstream_idle),
        print_duration(timeouts.upstream_idle),
    )
}

fn tls(tls: &Tls) -> String {
    let trusted = match (&tls.ca_file, tls.insecure_skip_verify) {
        (_, true) => "WITHOUT VERIFICATION: whoever answers is trusted".to_owned(),
        (Some(file), false) => format!("authorities of {}", file.display()),
        (None, false) => "authorities of the system".to_owned(),
    };
    let certificate = tls.client_certificate.as_ref();
    let certificate = certificate.map_or_else(String::new, |files| {
        format!(", our certificate {} with {}", files.cert_file.display(), files.key_file.display())
    });
    let alpn = list(tls.alpn.iter().cloned()).map_or_else(String::new, |alpn| format!(", ALPN {alpn}"));
    format!("{}, {trusted}{certificate}{alpn}", tls.server_name)
}

fn retry(retry: &Retry) -> String {
    let codes = list(retry.status_codes.iter().map(ToString::to_string));
    let codes = codes.map_or_else(String::new, |codes| format!(" ({codes})"));
    match list(retry.on.iter().map(ToString::to_string)) {
        Some(on) => {
            let headers = list(retry.headers.iter().cloned());
            let headers = headers.map_or_else(String::new, |names| format!(" (headers {names})"));
            let per_try = retry.per_try_timeout;
            let per_try =
                per_try.map_or_else(String::new, |limit| format!(", each within {}", print_duration(limit)));
            let methods = if retry.non_idempotent { ", of POST and PATCH too" } else { "" };
            format!("on {on}{codes}{headers}; {} more attempts at most{per_try}{methods}", retry.attempts)
        }
        None => "only failed connects".to_owned(),
    }
}

fn filter(filter: &LogFilter) -> String {
    let header = filter.header.as_ref().map(|header| match &header.value {
        Some(value) => format!("header {} is {value:?}", header.name),
        None => format!("header {} is present", header.name),
    });
    let flags = list(filter.flags.iter().cloned());
    let conditions = [
        filter.min_status.map(|status| format!("status is at least {status}")),
        filter.min_duration.map(|duration| format!("duration is at least {}", print_duration(duration))),
        flags.map(|flags| format!("a flag is one of {flags}")),
        header,
        filter.sample.map(|share| format!("by chance, a share of {share}")),
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() { "all".to_owned() } else { format!("where {}", conditions.join(" and ")) }
}

fn hashed(on: &HashOn) -> String {
    match on {
        HashOn::Header(name) => format!("header {name}"),
        HashOn::Cookie(name) => format!("cookie {name}"),
        HashOn::SourceAddress => "the caller's address".to_owned(),
    }
}

/// `None` if nothing is limited.
fn breakers(breakers: &CircuitBreakers) -> Option<String> {
    let all = [
        (breakers.max_connections, "connections"),
        (breakers.max_pending_requests, "pending requests"),
        (breakers.max_requests, "requests"),
        (breakers.max_retries, "retries"),
    ];
    list(all.into_iter().filter_map(|(most, what)| most.map(|most| format!("{most} {what}"))))
}
