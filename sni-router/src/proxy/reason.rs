//! How a connection ended: data, not an error. One label each, for log and metrics.

use std::fmt;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides finished, nothing was lost.
    Done,
    /// The client reset the connection, or stopped answering.
    ClientReset,
    /// The endpoint reset the connection, or stopped answering.
    EndpointReset,
    /// No byte moved for the idle timeout.
    IdleTimeout,
    /// The connection reached the maximum duration.
    MaxDuration,
    /// The router was shutting down and the drain timeout had passed.
    Drained,
    /// An operator ended it.
    Closed,
    /// The client's address is denied.
    Denied,
    /// The listener takes no new connections.
    ListenerDraining,
    /// It goes on: the kernel carries it, and only this process has ended.
    Left,
    /// The hello names a host that no route of the listener takes.
    UnknownHost,
    /// The hello has no server name, and the listener has no default route.
    NoSni,
    /// The first bytes were not TLS.
    NotTls,
    /// The bytes began like TLS, but no ClientHello one may route by came of them.
    MalformedHello,
    /// The hello was larger than allowed.
    HelloTooLarge,
    /// The hello was not complete in time.
    HelloTimeout,
    /// The client closed or reset the connection before its hello was complete.
    ClientGone,
    /// Too many other connections were still saying hello.
    TooManyHellos,
    /// The connection arrived on an address and port of no listener.
    NoListener,
    /// The route's backend has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// A bug, or a resource the router ran out of.
    Internal,
}

impl CloseReason {
    /// All of them, for metrics.
    pub const ALL: [Self; 22] = [
        Self::Done,
        Self::ClientReset,
        Self::EndpointReset,
        Self::IdleTimeout,
        Self::MaxDuration,
        Self::Drained,
        Self::Closed,
        Self::Denied,
        Self::ListenerDraining,
        Self::Left,
        Self::UnknownHost,
        Self::NoSni,
        Self::NotTls,
        Self::MalformedHello,
        Self::HelloTooLarge,
        Self::HelloTimeout,
        Self::ClientGone,
        Self::TooManyHellos,
        Self::NoListener,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::Internal,
    ];

    /// Whether a client was turned away, rather than carried to some end: the router has closed, and not
    /// since a connection's time was over.
    pub const fn is_reject(self) -> bool {
        matches!(self.closer(), Some(Closer::Router))
            && !matches!(
                self,
                Self::IdleTimeout
                    | Self::MaxDuration
                    | Self::Drained
                    | Self::Closed
                    | Self::Internal
            )
    }

    /// The label in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientReset => "client_reset",
            Self::EndpointReset => "endpoint_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDuration => "max_duration",
            Self::Drained => "drained",
            Self::Closed => "closed",
            Self::Denied => "denied",
            Self::ListenerDraining => "listener_draining",
            Self::Left => "left",
            Self::UnknownHost => "unknown_host",
            Self::NoSni => "no_sni",
            Self::NotTls => "not_tls",
            Self::MalformedHello => "malformed_hello",
            Self::HelloTooLarge => "hello_too_large",
            Self::HelloTimeout => "hello_timeout",
            Self::ClientGone => "client_gone",
            Self::TooManyHellos => "too_many_hellos",
            Self::NoListener => "no_listener",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::Internal => "internal",
        }
    }

    /// Who closed first, unless somebody's FIN had come before. `None` where only that would tell,
    /// and where the connection goes on.
    pub const fn closer(self) -> Option<Closer> {
        match self {
            Self::Done | Self::Left => None,
            Self::ClientReset | Self::ClientGone => Some(Closer::Client),
            Self::EndpointReset => Some(Closer::Endpoint),
            Self::IdleTimeout
            | Self::MaxDuration
            | Self::Drained
            | Self::Closed
            | Self::Denied
            | Self::ListenerDraining
            | Self::UnknownHost
            | Self::NoSni
            | Self::NotTls
            | Self::MalformedHello
            | Self::HelloTooLarge
            | Self::HelloTimeout
            | Self::TooManyHellos
            | Self::NoListener
            | Self::NoEndpoint
            | Self::ConnectFailed
            | Self::Internal => Some(Closer::Router),
        }
    }
}

/// Who closed a connection first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// The client, by FIN or RST.
    Client,
    /// The endpoint, by FIN or RST.
    Endpoint,
    /// The router, since it had to.
    Router,
}

impl Closer {
    /// The label in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
            Self::Router => "router",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_are_what_the_router_did_before_it_carried() {
        let rejects = CloseReason::ALL.into_iter().filter(|it| it.is_reject());
        let rejects: Vec<_> = rejects.map(CloseReason::as_str).collect();
        assert_eq!(
            rejects,
            [
                "denied",
                "listener_draining",
                "unknown_host",
                "no_sni",
                "not_tls",
                "malformed_hello",
                "hello_too_large",
                "hello_timeout",
                "too_many_hellos",
                "no_listener",
                "no_endpoint",
                "connect_failed",
            ]
        );
    }
}
