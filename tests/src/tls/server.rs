//! A TLS server that answers every request with what it knows about the connection.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::pki::{self, Identity};
use super::{Answer, provider};
use crate::server::Server;

/// How a server differs from a plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse clients without a certificate of the lab's authority.
    pub client_certificate: bool,
    /// Agree on X25519MLKEM768 only.
    pub post_quantum: bool,
}

/// Serves HTTP/1.1 over TLS 1.2 and 1.3, one request a connection; the body of every response is
/// an [`Answer`] as JSON. It also agrees on ALPN `h2`, for clients that do not speak HTTP/2 then.
pub fn spawn(listener: TcpListener, name: &str, identity: &Identity, options: Options) -> Server {
    let config = Arc::new(config(identity, options));
    let name = name.to_owned();
    Server::spawn(listener, move |stream| {
        // A client that refuses the certificate, or is refused, sees it itself.
        let _ = answer(stream, &name, config.clone());
    })
}

fn config(identity: &Identity, options: Options) -> ServerConfig {
    let provider = provider(options.post_quantum);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider does both versions");
    let builder = if options.client_certificate {
        let verifier = WebPkiClientVerifier::builder_with_provider(pki::roots(), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let (chain, key) = identity.rustls();
    let mut config = builder.with_single_cert(chain, key).expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn answer(stream: TcpStream, name: &str, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && line != "\r\n" {
        line.clear();
    }

    let mut tls = reader.into_inner();
    let answer = describe(name, &tls.conn);
    let body = serde_json::to_string(&answer)?;
    // Without a length, so that the client reads to the end of the stream before it closes.
    write!(tls, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")?;
    tls.conn.send_close_notify();
    tls.flush()?;
    // Closing with the client's close_notify unread would reset the connection.
    tls.sock.shutdown(Shutdown::Write)?;
    io::copy(&mut tls.sock, &mut io::sink())?;
    Ok(())
}

fn describe(name: &str, connection: &ServerConnection) -> Answer {
    let alpn = connection.alpn_protocol().unwrap_or_default();
    let group = connection.negotiated_key_exchange_group();
    let version = connection.protocol_version();
    Answer {
        server: name.to_owned(),
        sni: connection.server_name().unwrap_or_default().to_owned(),
        version: version.map(|v| format!("{v:?}")).unwrap_or_default(),
        group: group.map(|g| format!("{:?}", g.name())).unwrap_or_default(),
        alpn: String::from_utf8_lossy(alpn).into_owned(),
        client_certificate: connection.peer_certificates().is_some(),
    }
}
