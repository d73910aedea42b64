//! Response flags: why a request went wrong, in Envoy's letters.

/// A set of response flags; a request can have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($bit:literal $name:ident $text:literal $long:literal $doc:literal;)*) => {
        impl Flags {
            /// No flag: renders `-`.
            pub const EMPTY: Self = Self(0);
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*
            /// Every flag with its short and its long text, in the order in which they are written.
            pub const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self::$name, $text, $long)),*];
        }
    };
}

flags! {
    0 NO_ENDPOINT "UH" "NoHealthyUpstream" "No endpoint to choose.";
    1 CONNECT_FAILED "UF" "UpstreamConnectionFailure" "Connecting to the upstream failed.";
    2 OVERFLOW "UO" "UpstreamOverflow" "A limit (connections, pending, requests) was reached.";
    3 OVERLOAD "OM" "OverloadManagerTerminated" "Memory ran short.";
    4 UPSTREAM_CLOSED "UC" "UpstreamConnectionTermination" "The upstream closed the connection.";
    5 UPSTREAM_RESET "UR" "UpstreamRemoteReset" "The upstream reset the stream.";
    6 LOCAL_RESET "LR" "LocalReset" "The stream was reset here.";
    7 UPSTREAM_TIMEOUT "UT" "UpstreamRequestTimeout" "The upstream took too long.";
    8 RETRY_LIMIT "URX" "UpstreamRetryLimitExceeded" "The retry limit was reached.";
    9 UPSTREAM_PROTOCOL "UPE" "UpstreamProtocolError" "The upstream broke the protocol.";
    10 DOWNSTREAM_PROTOCOL "DPE" "DownstreamProtocolError" "The client broke the protocol.";
    11 NO_ROUTE "NR" "NoRouteFound" "No route matches.";
    12 DOWNSTREAM_CLOSED "DC" "DownstreamConnectionTermination" "The client went away.";
    13 DNS_FAILED "DF" "DnsResolutionFailed" "No DNS answer ever.";
    14 STREAM_IDLE "SI" "StreamIdleTimeout" "Nothing moved for too long.";
    15 DURATION_TIMEOUT "DT" "DurationTimeout" "The connection's longest duration was reached.";
    16 STREAM_DURATION "UMSDR" "UpstreamMaxStreamDurationReached" "The stream's longest duration was reached.";
}

impl Flags {
    /// True if no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if any flag of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flag with this short text (`UH`), if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, short, _)| *short == text).map(|(flag, ..)| *flag)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
