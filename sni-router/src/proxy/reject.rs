//! Telling a client that its connection goes nowhere.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::reason::CloseReason;
use super::settings::{Answer, Answers};
use crate::socket::Socket;

/// Ends a connection that was not connected to an endpoint. `tls13` is whether the hello offered
/// TLS 1.3.
pub(super) async fn reject(client: Socket, reason: CloseReason, answers: &Answers, tls13: bool) {
    match answer(reason, answers) {
        Answer::Reset => reset(&client),
        Answer::Close => close(client, None).await,
        Answer::Alert => close(client, alert(reason, tls13)).await,
    }
}

/// Has the kernel send RST when the socket is dropped.
pub(super) fn reset(client: &Socket) {
    // Fails only on a socket that is already gone.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

fn answer(reason: CloseReason, answers: &Answers) -> Answer {
    match reason {
        CloseReason::UnknownHost => answers.unknown_host,
        CloseReason::NoSni => answers.no_sni,
        CloseReason::NotTls => answers.not_tls,
        CloseReason::MalformedHello => answers.malformed,
        CloseReason::HelloTooLarge => answers.too_large,
        CloseReason::HelloTimeout => answers.timeout,
        CloseReason::NoEndpoint | CloseReason::ConnectFailed => Answer::Alert,
        _ => Answer::Reset,
    }
}

/// The AlertDescription (RFC 8446, 6; RFC 6066, 3) that tells a client most.
fn alert(reason: CloseReason, tls13: bool) -> Option<u8> {
    match reason {
        CloseReason::UnknownHost => Some(UNRECOGNIZED_NAME),
        // RFC 8446, 9.2, names this case; before TLS 1.3 the alert did not exist.
        CloseReason::NoSni if tls13 => Some(MISSING_EXTENSION),
        CloseReason::NoSni => Some(HANDSHAKE_FAILURE),
        CloseReason::NotTls => Some(UNEXPECTED_MESSAGE),
        CloseReason::MalformedHello => Some(DECODE_ERROR),
        CloseReason::HelloTooLarge | CloseReason::HelloTimeout => Some(HANDSHAKE_FAILURE),
        CloseReason::NoEndpoint | CloseReason::ConnectFailed => Some(INTERNAL_ERROR),
        _ => None,
    }
}

/// Sends the alert, if any, and FIN, then swallows what the client still sends: closing a socket
/// with unread bytes makes the kernel send RST, which can overtake the alert.
async fn close(client: Socket, alert: Option<u8>) {
    let Ok(mut client) = client.registered() else {
        return;
    };
    let ending = async {
        if let Some(description) = alert {
            client.write_all(&alert_record(description)).await?;
        }
        client.shutdown().await?;
        let mut swallowed = 0;
        let mut buffer = [0; 1024];
        while swallowed < LINGER_BYTES {
            client.readable().await?;
            match client.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => swallowed += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that is gone, or that does not go, is closed by the drop.
    let _ = timeout(LINGER, ending).await;
}

/// A TLSPlaintext record (RFC 8446, 5.1) with one fatal alert. The record version is that of
/// TLS 1.2, which every client since 2008 accepts before a version is agreed on.
fn alert_record(description: u8) -> [u8; 7] {
    [CONTENT_ALERT, 3, 3, 0, 2, LEVEL_FATAL, description]
}

const CONTENT_ALERT: u8 = 21;
const LEVEL_FATAL: u8 = 2;
const UNEXPECTED_MESSAGE: u8 = 10;
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

/// How long, and for how many bytes, a client may take to notice the end.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;
