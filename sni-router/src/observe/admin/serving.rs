//! Connections to the admin API: how many, and for how long one that asks nothing.
//!
//! Whoever reaches the address may connect, and say nothing. That must neither take descriptors from clients of the
//! router, nor keep away those who ask how it fares. So there is room for a fixed number; who has not asked in time
//! goes; and where there is no room, who comes gets the place of somebody who waits for no answer, and does not have to
//! wait until the time of that one is over, which is longer than probes are patient.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::serve::Listener;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tower::ServiceExt as _;
use tracing::trace;

/// Serves whoever connects what `for_peer` makes for them. Has no end but that of the task, after which the answers that
/// are under way still get to their ends.
pub(super) async fn serve<L: Listener>(mut listener: L, for_peer: impl Fn(L::Addr) -> Router) {
    let mut places: Vec<Place> = Vec::new();
    loop {
        // Where descriptors have run out, it tries again a second later.
        let (stream, peer) = listener.accept().await;
        places.retain(|place| !place.task.is_finished());
        if places.len() >= MOST {
            let Some(idle) = places.iter().position(Place::is_idle) else {
                trace!("as many answers are under way to callers of the admin API as may be");
                continue;
            };
            places.remove(idle).task.abort();
        }
        let occupied = Arc::new(());
        let answering = answer(stream, for_peer(peer), Arc::downgrade(&occupied));
        let task = tokio::spawn(answering).abort_handle();
        places.push(Place { task, occupied });
    }
}

/// Of a connection, in the order in which they came.
struct Place {
    task: AbortHandle,
    /// Held by each answer that is under way, too.
    occupied: Arc<()>,
}

impl Place {
    /// Whether nobody there waits for an answer.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.occupied) == 1
    }
}

/// Answers what is asked on one connection, until it ends.
async fn answer<S>(stream: S, router: Router, place: Weak<()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let place = place.upgrade();
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answer {
                body,
                _place: place,
            }))
        }
    });
    // The time runs from the end of the answer before, so that it is also that of a connection which is kept.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKING)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        trace!(%error, "a connection to the admin API has ended early");
    }
}

/// The body of an answer, which keeps the connection's place as long as there is more of it to come.
struct Answer {
    body: Body,
    _place: Option<Arc<()>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connections at one address: scrapers, probes, a dashboard and some operators take a few each, and a descriptor for each
/// is little beside those of clients.
pub(super) const MOST: usize = 64;

/// Time for the head of a request, and until the next one begins.
pub(super) const ASKING: Duration = Duration::from_secs(10);
