//! The list of all paths: as the index page, as `/help`, and for whoever mistypes one.

use std::fmt::Write;

use axum::response::{Html, IntoResponse, Response};
use http::{StatusCode, Uri};

/// A path that users can ask for.
pub(super) struct Page {
    pub path: &'static str,
    pub what: &'static str,
    /// What can be posted: a button's text and the query that it sends. Empty for a page that is read with GET.
    pub posts: &'static [(&'static str, &'static str)],
}

pub(super) const PAGES: &[Page] = &[
    Page { path: "/", what: "this list, as a page with links", posts: &[] },
    Page {
        path: "/clusters",
        what: "every upstream and its pods: health, counts, where the answer came from and how old it is (?format=json)",
        posts: &[],
    },
    Page {
        path: "/config_dump",
        what: "the configuration in effect, as JSON that --config takes",
        posts: &[],
    },
    Page { path: "/help", what: "this list, as text", posts: &[] },
    Page {
        path: "/listeners",
        what: "every upstream's name and the address it listens on (?format=json)",
        posts: &[],
    },
    Page {
        path: "/logging",
        what: "print the level of the diagnostics on standard error, or change it (?level=debug, \
               ?level=info,whichpod::discovery=debug)",
        posts: &[
            ("show", ""),
            ("error", "?level=error"),
            ("warn", "?level=warn"),
            ("info", "?level=info"),
            ("debug", "?level=debug"),
            ("trace", "?level=trace"),
        ],
    },
    Page {
        path: "/quitquitquit",
        what: "stop as at SIGTERM: finish what runs, then exit",
        posts: &[("stop", "")],
    },
    Page { path: "/ready", what: "200 if ready, else 503 with what is awaited", posts: &[] },
    Page { path: "/server_info", what: "version, state, uptime, workers", posts: &[] },
    Page {
        path: "/stats",
        what: "counters and gauges by Envoy's names (?filter=PART_OF_A_NAME, a plain text and not a regular expression; \
               ?usedonly; ?format=json, ?format=prometheus); durations are in the Prometheus form only",
        posts: &[],
    },
    Page { path: "/stats/prometheus", what: "what /metrics on the health port has", posts: &[] },
];

pub(super) async fn index() -> Html<String> {
    Html(html())
}

pub(super) async fn help() -> String {
    list()
}

pub(super) async fn not_found(uri: Uri) -> Response {
    (StatusCode::NOT_FOUND, format!("{}: there is no such path; {}", uri.path(), list())).into_response()
}

/// The router adds `Allow`.
pub(super) async fn wrong_method(uri: Uri) -> Response {
    let posted = PAGES.iter().any(|page| page.path == uri.path() && !page.posts.is_empty());
    let text = if posted {
        format!("{} changes the process, so it takes POST only, as with curl -X POST\n", uri.path())
    } else {
        format!("{} takes GET only\n", uri.path())
    };
    (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

fn list() -> String {
    PAGES.iter().fold("admin commands are:\n".to_owned(), |mut text, page| {
        let method = if page.posts.is_empty() { "" } else { " (POST)" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}{method}: {}", page.path, page.what);
        text
    })
}

fn html() -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>whichpod admin</title>\n\
         <style>body{{font:1rem/1.5 sans-serif;margin:2rem}}td{{padding:.3rem 1rem .3rem 0;vertical-align:top}}\
         form{{margin:0}}</style></head>\n<body>\n<h1>whichpod {}</h1>\n<table>\n",
        env!("CARGO_PKG_VERSION")
    );
    for page in PAGES {
        let cell = if page.posts.is_empty() {
            format!("<a href=\"{0}\">{0}</a>", page.path)
        } else {
            let button = |(label, query): &(&str, &str)| {
                format!(" <button formaction=\"{}{query}\">{label}</button>", page.path)
            };
            let buttons: String = page.posts.iter().map(button).collect();
            format!("<form method=\"post\">{}{buttons}</form>", page.path)
        };
        let _ = writeln!(text, "<tr><td>{cell}</td><td>{}</td></tr>", page.what);
    }
    text.push_str("</table>\n</body>\n</html>\n");
    text
}
