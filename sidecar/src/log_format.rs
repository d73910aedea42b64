//! The access log's format and filter, from the configuration's words to compiled ones.

use whichpod_access_log::{Compiled, Filter, FilterError, Flags, Format, FormatError, Rules};
use whichpod_config::{Checks, Env, LogFilter, ProcessEnv};

/// Compiles a format with this process's environment and host name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(format: &str) -> Result<Compiled, FormatError> {
    let host = rustix::system::uname();
    Format::compile(
        format,
        &|name| ProcessEnv.get(name)?.into_string().ok(),
        &host.nodename().to_string_lossy(),
    )
}

/// Compiles a filter; a header that it looks at joins what the format needs.
///
/// # Errors
/// For an unknown flag, an impossible header name, and a share that is none.
pub fn filter(settings: &LogFilter, format: &mut Format) -> Result<Filter, FilterError> {
    let rules = Rules {
        min_status: settings.min_status,
        min_duration: settings.min_duration,
        flags: settings.flags.clone(),
        header: settings.header.clone().map(|header| (header.name, header.value)),
        sample: settings.sample,
    };
    Filter::new(&rules, format)
}

/// What the configuration needs checked that it cannot check itself.
#[must_use]
pub fn checks() -> Checks<'static> {
    Checks {
        log_format: &|format| compile(format).map(drop).map_err(|error| error.to_string()),
        response_flag: &|flag| Flags::parse(flag).is_some(),
    }
}
