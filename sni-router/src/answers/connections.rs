//! Which connections there are, and ending them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sni_router_core::addresses::AddressSet;

use crate::api::{Connection, ConnectionQuery, Page, State, Step, TraceQuery};
use crate::carry::{End, Kind};
use crate::observe::admin::Refused;
use crate::proxy::census::Census;
use crate::proxy::connection;
use crate::proxy::trace::{self, Follower, Trace};

/// The page that is asked for.
pub(super) fn page(census: &Census, query: &ConnectionQuery) -> Result<Page, Refused> {
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Refused::Nonsense(format!(
            "limit is {limit}, not 1 to {MOST}"
        )));
    }
    let wanted = Wanted::of(query)?;
    let found = census.filter(|connection| wanted.takes(connection));
    let after = query.after.unwrap_or(0);
    let rest = &found[found.partition_point(|found| found.id <= after)..];
    let page = &rest[..limit.min(rest.len())];
    let is_more = page.len() < rest.len();
    // Without those that have ended meanwhile.
    let connections = page.iter().filter_map(|found| census.found(found));
    Ok(Page {
        next: page.last().map(|last| last.id).filter(|_| is_more),
        connections: connections.map(|it| shown(census, &it)).collect(),
        total: found.len(),
    })
}

/// One connection.
pub(super) fn one(census: &Census, id: u64) -> Result<Connection, Refused> {
    let connection = census.get(id).ok_or_else(|| unknown(id))?;
    Ok(shown(census, &connection))
}

/// Steps of those that fit, from now on.
pub(super) fn trace(
    trace: &Arc<Trace>,
    query: &TraceQuery,
) -> Result<BoxStream<'static, Step>, Refused> {
    let host = query.host.as_deref().map(Name::read);
    let client = Place::asked("client", query.client.as_ref())?;
    let fits = move |step: &trace::Step| {
        let of = |name: &Name| {
            step.host
                .as_ref()
                .is_some_and(|host| name.is_of(host.as_str()))
        };
        host.as_ref().is_none_or(of) && client.as_ref().is_none_or(|place| place.has(&step.client))
    };
    let follower = Follower::of(Arc::clone(trace)).ok_or_else(|| {
        Refused::Busy("too many others follow connections; end one of them".into())
    })?;
    let start = (follower, fits);
    let steps = stream::unfold(start, async |(mut from, fits)| {
        loop {
            let step = match from.next().await? {
                Ok(step) if !fits(&step) => continue,
                Ok(step) => told(step),
                Err(lost) => lost_steps(lost),
            };
            return Some((step, (from, fits)));
        }
    });
    Ok(steps.boxed())
}

fn told(step: trace::Step) -> Step {
    Step {
        at: humantime::format_rfc3339_micros(step.at).to_string(),
        id: step.id,
        client: step.client.to_string(),
        host: step.host.map(|host| host.to_string()),
        phase: step.phase.to_owned(),
        detail: step.detail,
    }
}

fn lost_steps(count: u64) -> Step {
    Step {
        at: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        id: 0,
        client: String::new(),
        host: None,
        phase: "lost".to_owned(),
        detail: format!("{count} steps, which were not read fast enough"),
    }
}

/// Has one ended.
pub(super) fn close(census: &Census, id: u64) -> Result<(), Refused> {
    let connection = census.get(id).ok_or_else(|| unknown(id))?;
    census.end(&connection, End::Closed);
    Ok(())
}

/// Has all ended that fit.
pub(super) fn close_all(census: &Census, query: &ConnectionQuery) -> Result<usize, Refused> {
    let wanted = Wanted::of(query)?;
    if wanted.is_everything() {
        let error =
            "say which: an empty question would end every connection (client=0.0.0.0/0 does)";
        return Err(Refused::Nonsense(error.into()));
    }
    let found = census.filter(|connection| wanted.takes(connection));
    for found in &found {
        census.end_found(found, End::Closed);
    }
    Ok(found.len())
}

fn unknown(id: u64) -> Refused {
    Refused::NotFound(format!("there is no connection {id}, or it is over"))
}

fn shown(census: &Census, connection: &connection::Connection) -> Connection {
    let moved = census.moved(connection);
    let route = connection.route.get();
    let datapath = connection.datapath();
    Connection {
        id: connection.id,
        client: connection.client().to_string(),
        vip: connection.vip().to_string(),
        listener: connection.listener.as_ref().map(|it| it.key.to_string()),
        state: match (datapath, route) {
            (Some(_), _) => State::Carried,
            (None, Some(_)) => State::Connecting,
            (None, None) => State::Hello,
        },
        host: connection.host.get().map(ToString::to_string),
        route: route.map(|route| route.pattern.to_string()),
        backend: route.map(|route| route.backend.key.to_string()),
        endpoint: connection.endpoint().map(|addr| addr.to_string()),
        datapath: datapath.map(|kind| kind.as_str().to_owned()),
        age_seconds: connection.age().as_secs_f64(),
        idle_seconds: moved.idle.as_secs_f64(),
        bytes_up: moved.up,
        bytes_down: moved.down,
    }
}

/// A question, read.
#[derive(Default)]
struct Wanted {
    listener: Option<String>,
    host: Option<Name>,
    client: Option<Place>,
    endpoint: Option<Place>,
    datapath: Option<Kind>,
}

enum Name {
    Is(String),
    /// With the dot.
    EndsWith(String),
}

enum Place {
    At(SocketAddr),
    Of(AddressSet),
}

impl Wanted {
    fn of(query: &ConnectionQuery) -> Result<Self, Refused> {
        let kind = |text: &String| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
            kind.ok_or_else(|| {
                let all = Kind::ALL.map(Kind::as_str).join(", ");
                Refused::Nonsense(format!("datapath {text:?} is none of {all}"))
            })
        };
        Ok(Self {
            listener: query.listener.clone(),
            host: query.host.as_deref().map(Name::read),
            client: Place::asked("client", query.client.as_ref())?,
            endpoint: Place::asked("endpoint", query.endpoint.as_ref())?,
            datapath: query.datapath.as_ref().map(kind).transpose()?,
        })
    }

    fn is_everything(&self) -> bool {
        let Self {
            listener,
            host,
            client,
            endpoint,
            datapath,
        } = self;
        listener.is_none()
            && host.is_none()
            && client.is_none()
            && endpoint.is_none()
            && datapath.is_none()
    }

    fn takes(&self, connection: &connection::Connection) -> bool {
        let fits = |place: &Option<Place>, addr: Option<SocketAddr>| match place {
            None => true,
            Some(place) => addr.is_some_and(|addr| place.has(&addr)),
        };
        self.listener.as_ref().is_none_or(|name| {
            let listener = connection.listener.as_ref();
            listener.is_some_and(|listener| listener.key.to_string() == *name)
        }) && self.host.as_ref().is_none_or(|name| {
            let host = connection.host.get();
            host.is_some_and(|host| name.is_of(host.as_str()))
        }) && fits(&self.client, Some(connection.client()))
            && fits(&self.endpoint, connection.endpoint())
            && self
                .datapath
                .is_none_or(|kind| connection.datapath() == Some(kind))
    }
}

impl Name {
    fn read(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) => Self::EndsWith(suffix.to_owned()),
            None => Self::Is(text),
        }
    }

    fn is_of(&self, host: &str) -> bool {
        match self {
            Self::Is(name) => name == host,
            Self::EndsWith(suffix) => host.ends_with(suffix.as_str()),
        }
    }
}

impl Place {
    fn asked(field: &str, text: Option<&String>) -> Result<Option<Self>, Refused> {
        let read = |text: &String| {
            Self::read(text).ok_or_else(|| {
                Refused::Nonsense(format!(
                    "{field} {text:?} is no address, no network as 192.0.2.0/24, and no address with a port"
                ))
            })
        };
        text.map(read).transpose()
    }

    fn read(text: &str) -> Option<Self> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Some(Self::At(addr));
        }
        let (set, errors) = AddressSet::read(text);
        (errors.is_empty() && !set.is_empty()).then_some(Self::Of(set))
    }

    fn has(&self, addr: &SocketAddr) -> bool {
        match self {
            Self::At(place) => place == addr,
            Self::Of(set) => set.contains(addr.ip()),
        }
    }
}

/// Connections of a page, where nothing is said, and at most.
const LIMIT: usize = 100;
const MOST: usize = 1000;

#[cfg(test)]
mod tests;
