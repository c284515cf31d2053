//! Pushes real bytes through a datapath on this host's loopback interface, before any client's.
//!
//! Sock maps have lost bytes, FINs and wake-ups in many kernel versions, some of them stable
//! ones, so what counts is what this kernel does, not what it is called.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::carry::{Datapath, End, Limits, Outcome, Pair, Traffic};

/// Which test failed, and how.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// The sockets for the test could not be made.
    #[error("cannot connect over loopback (is the interface `lo` up?)")]
    Loopback(#[source] io::Error),
    /// The datapath did something else than it must.
    #[error("{test}: {what}")]
    Failed {
        /// The test's name.
        test: &'static str,
        /// What was seen.
        what: String,
    },
}

/// Runs every test; takes well under a second where all is well.
pub async fn run(datapath: &dyn Datapath) -> Result<(), SelfTestError> {
    check("bytes queued before the hand-over", queued_before(datapath)).await?;
    check("a queue that was read in part", partly_read(datapath)).await?;
    check("half-close both ways", half_close(datapath)).await?;
    check("64 MiB each way to slow readers", bulk(datapath)).await?;
    check("reset by the client", reset(datapath)).await
}

async fn check(
    test: &'static str,
    run: impl Future<Output = io::Result<()>>,
) -> Result<(), SelfTestError> {
    match timeout(DEADLINE, run).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => {
            Err(SelfTestError::Loopback(error))
        }
        Ok(Err(error)) => Err(SelfTestError::Failed {
            test,
            what: error.to_string(),
        }),
        Err(_) => Err(SelfTestError::Failed {
            test,
            what: "bytes got stuck".into(),
        }),
    }
}

/// The client sends everything before the router takes over, and then nothing more.
async fn queued_before(datapath: &dyn Datapath) -> io::Result<()> {
    let mut rig = Rig::new().await?;
    rig.client.write_all(&pattern(QUEUED)).await?;
    rig.endpoint.write_all(&pattern(QUEUED)).await?;
    let Rig {
        mut client,
        mut endpoint,
        pair,
    } = rig;
    let ends = async {
        expect(&mut endpoint, QUEUED).await?;
        expect(&mut client, QUEUED).await?;
        endpoint.shutdown().await?;
        client.shutdown().await
    };
    end_is(End::Done, both(datapath, pair, ends).await?)
}

/// The router has read a part of what the client sent, as it does with a hello that more follows.
async fn partly_read(datapath: &dyn Datapath) -> io::Result<()> {
    let Rig {
        mut client,
        mut endpoint,
        mut pair,
    } = Rig::new().await?;
    client.write_all(&pattern(QUEUED)).await?;
    let mut part = [0; 1000];
    let mut from_client = pair.client.registered()?;
    from_client.read_exact(&mut part).await?;
    pair.client = from_client.into();
    pair.endpoint.write_all(&part).await?;
    pair.forwarded = part.len() as u64;
    let ends = async {
        expect(&mut endpoint, QUEUED).await?;
        client.shutdown().await?;
        expect_end(&mut endpoint).await?;
        endpoint.shutdown().await
    };
    end_is(End::Done, both(datapath, pair, ends).await?)
}

/// The client finishes first; what the endpoint answers afterwards must still arrive.
async fn half_close(datapath: &dyn Datapath) -> io::Result<()> {
    let Rig {
        mut client,
        mut endpoint,
        pair,
    } = Rig::new().await?;
    let ends = async {
        client.write_all(&pattern(QUEUED)).await?;
        client.shutdown().await?;
        expect(&mut endpoint, QUEUED).await?;
        expect_end(&mut endpoint).await?;
        endpoint.write_all(&pattern(QUEUED)).await?;
        endpoint.shutdown().await?;
        expect(&mut client, QUEUED).await?;
        expect_end(&mut client).await
    };
    end_is(End::Done, both(datapath, pair, ends).await?)
}

/// Both sides send at full speed while nobody reads for a while.
async fn bulk(datapath: &dyn Datapath) -> io::Result<()> {
    let Rig {
        client,
        endpoint,
        pair,
    } = Rig::new().await?;
    let ends = async {
        let (mut client_read, mut client_write) = client.into_split();
        let (mut endpoint_read, mut endpoint_write) = endpoint.into_split();
        let send_up = async {
            client_write.write_all(&pattern(BULK)).await?;
            client_write.shutdown().await
        };
        let send_down = async {
            endpoint_write.write_all(&pattern(BULK)).await?;
            endpoint_write.shutdown().await
        };
        let read_up = async {
            sleep(SLOW).await;
            expect(&mut endpoint_read, BULK).await?;
            expect_end(&mut endpoint_read).await
        };
        let read_down = async {
            sleep(SLOW).await;
            expect(&mut client_read, BULK).await?;
            expect_end(&mut client_read).await
        };
        tokio::try_join!(send_up, send_down, read_up, read_down).map(drop)
    };
    end_is(End::Done, both(datapath, pair, ends).await?)
}

/// The client resets; the endpoint must see a reset, not an orderly end.
async fn reset(datapath: &dyn Datapath) -> io::Result<()> {
    let Rig {
        mut client,
        mut endpoint,
        pair,
    } = Rig::new().await?;
    let ends = async {
        client.write_all(&pattern(QUEUED)).await?;
        expect(&mut endpoint, QUEUED).await?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        match endpoint.read(&mut [0; 1]).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            other => Err(io::Error::other(format!("expected a reset, got {other:?}"))),
        }
    };
    end_is(End::ClientReset, both(datapath, pair, ends).await?)
}

/// A client, an endpoint, and the router's two sockets between them.
struct Rig {
    client: TcpStream,
    endpoint: TcpStream,
    pair: Pair,
}

impl Rig {
    async fn new() -> io::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let front = TcpListener::bind(loopback).await?;
        let back = TcpListener::bind(loopback).await?;
        let client = TcpStream::connect(front.local_addr()?).await?;
        let to_endpoint = TcpStream::connect(back.local_addr()?).await?;
        let (from_client, _) = front.accept().await?;
        let (endpoint, _) = back.accept().await?;
        let pair = Pair {
            client: from_client.into(),
            endpoint: to_endpoint.into(),
            forwarded: 0,
            unsent: Vec::new(),
            mapped: None,
            hold: None,
        };
        Ok(Self {
            client,
            endpoint,
            pair,
        })
    }
}

/// Carries the pair while the two ends do their part.
async fn both(
    datapath: &dyn Datapath,
    pair: Pair,
    ends: impl Future<Output = io::Result<()>>,
) -> io::Result<End> {
    let (_keep, shutdown) = watch::channel(false);
    let limits = Limits {
        idle: STUCK,
        max_duration: None,
        shutdown,
    };
    let traffic = Traffic::default();
    let carry = async {
        datapath
            .carry(pair, &limits, &traffic)
            .await
            .map_err(|refused| io::Error::other(format!("refused: {}", refused.decline)))
            .and_then(|outcome| match outcome {
                Outcome::Over(end) => Ok(end),
                Outcome::Alone(_) => Err(io::Error::other("left alone")),
            })
    };
    tokio::try_join!(carry, ends).map(|(end, ())| end)
}

fn end_is(expected: End, end: End) -> io::Result<()> {
    if end == expected {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "ended as {end:?}, not as {expected:?}"
    )))
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<()> {
    let sent = pattern(PERIOD);
    let mut buffer = vec![0; PERIOD];
    let mut seen = 0;
    while seen < len {
        // Never across the end of a period, so that a piece can be compared as a whole.
        let at = seen % PERIOD;
        let most = (PERIOD - at).min(len - seen);
        let read = stream.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(io::Error::other(format!(
                "{} of {len} bytes are missing",
                len - seen
            )));
        }
        if buffer[..read] != sent[at..at + read] {
            return Err(io::Error::other(format!(
                "bytes from {seen} on are not what was sent"
            )));
        }
        seen += read;
    }
    Ok(())
}

async fn expect_end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match stream.read(&mut [0; 1]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes than were sent")),
    }
}

/// A stream in which every shift of less than a period is visible.
fn pattern(len: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..PERIOD).map(|at| (at ^ (at >> 8)) as u8).collect();
    let mut pattern = period.repeat(len.div_ceil(PERIOD));
    pattern.truncate(len);
    pattern
}

const PERIOD: usize = 64 * 1024;
const QUEUED: usize = 16 * 1024;
const BULK: usize = 64 << 20;
const SLOW: Duration = Duration::from_millis(30);

/// Without a byte in this time they are stuck; a busy host may well take longer in all.
const STUCK: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(60);
