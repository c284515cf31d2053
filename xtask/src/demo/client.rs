//! The clients: curl and `openssl s_client`, and what they have seen.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command::line;
use crate::lab::{CLIENT, Lab, VIP};

/// What a client has seen.
#[derive(Debug)]
pub enum Answer {
    /// A TLS handshake and a response.
    Served {
        /// SHA-256 of the certificate that the server has proved to own, in hex.
        fingerprint: String,
        /// From the start to the first byte of the response.
        first_byte: Duration,
    },
    /// No handshake: what the client says about it.
    Refused(String),
}

/// Asks with curl; without a host it sends no SNI, since an address is not a name.
pub fn curl(lab: &Lab, host: Option<&str>) -> Result<Answer> {
    let mut command = lab.command(CLIENT, "curl");
    command.args([
        "--disable",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "10",
    ]);
    command.args([
        "--output",
        "/dev/null",
        "--write-out",
        "%{time_starttransfer}\n%{certs}",
    ]);
    match host {
        Some(host) => {
            // The certificate is checked in earnest: only the two servers' own are trusted.
            command.arg("--cacert").arg(lab.dir().join("bundle.pem"));
            command.args(["--resolve", &format!("{host}:443:{VIP}")]);
            command.arg(format!("https://{host}/"));
        }
        None => drop(command.args(["--insecure", &format!("https://{VIP}/")])),
    }
    let output = command.output().with_context(|| line(&command))?;
    if !output.status.success() {
        return Ok(Answer::Refused(curl_reason(&String::from_utf8_lossy(
            &output.stderr,
        ))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (seconds, certificates) = text.split_once('\n').context("curl wrote no time")?;
    let seconds: f64 = seconds.parse().context("curl wrote no time")?;
    Ok(Answer::Served {
        fingerprint: fingerprint(certificates).context("curl 7.88 or newer is needed")?,
        first_byte: Duration::from_secs_f64(seconds),
    })
}

/// Asks with `openssl s_client`; without a host it sends no SNI.
pub fn openssl(lab: &Lab, host: Option<&str>) -> Result<Answer> {
    let mut command = lab.command(CLIENT, "timeout");
    // -ign_eof: stay until the server closes, so that the response is not cut off.
    command.args([
        "10",
        "openssl",
        "s_client",
        "-ign_eof",
        "-connect",
        &format!("{VIP}:443"),
    ]);
    match host {
        Some(host) => command.args(["-servername", host, "-verify_hostname", host]),
        None => command.arg("-noservername"),
    };
    command
        .args(["-verify_return_error", "-CAfile"])
        .arg(lab.dir().join("bundle.pem"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| line(&command))?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    // It may have gone already, refused.
    let _ = stdin.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let mut stdout = child.stdout.take().context("no pipe")?;
    let (text, first_byte) = read_response(&mut stdout, start)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    match first_byte {
        Some(first_byte) => Ok(Answer::Served {
            fingerprint: fingerprint(&text)?,
            first_byte,
        }),
        None => Ok(Answer::Refused(openssl_reason(&String::from_utf8_lossy(
            &output.stderr,
        )))),
    }
}

/// SHA-256 of the first certificate in a text, in hex, as openssl computes it.
pub fn fingerprint(text: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-fingerprint", "-sha256"]);
    let printed = filter(&mut command, text)?;
    let (_, hex) = printed
        .trim_end()
        .split_once('=')
        .context("no fingerprint")?;
    Ok(hex.replace(':', "").to_lowercase())
}

/// The same of the `tls.crt` of a Secret.
pub fn fingerprint_of_secret(base64: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    fingerprint(&filter(command.args(["base64", "-d", "-A"]), base64)?)
}

/// What a command makes of a text.
fn filter(command: &mut Command, text: &str) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| line(command))?;
    child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            line(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Reads to the end and notes when the response began.
fn read_response(
    from: &mut impl std::io::Read,
    start: Instant,
) -> Result<(String, Option<Duration>)> {
    let mut bytes = Vec::new();
    let mut first_byte = None;
    let mut chunk = [0; 4096];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), first_byte));
        }
        bytes.extend_from_slice(&chunk[..count]);
        if first_byte.is_none() && bytes.windows(7).any(|window| window == b"HTTP/1.") {
            first_byte = Some(start.elapsed());
        }
    }
}

/// `curl: (35) OpenSSL/3.0: error:0A000458:SSL routines::tlsv1 unrecognized name` → its end.
fn curl_reason(stderr: &str) -> String {
    let line = stderr.lines().next().unwrap_or_default();
    let reason = line.rsplit("::").next().unwrap_or_default();
    reason.trim_start_matches("curl: ").to_owned()
}

/// `…:SSL routines:ssl3_read_bytes:tlsv1 unrecognized name:…:SSL alert number 112` → the alert.
fn openssl_reason(stderr: &str) -> String {
    let alert = stderr.lines().find_map(|line| {
        let (error, number) = line.rsplit_once("SSL alert number ")?;
        let name = error.split(':').nth(5)?;
        Some(format!("{name} (alert {})", number.trim()))
    });
    let last = || stderr.lines().last().unwrap_or("no response").to_owned();
    alert.unwrap_or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_the_alert_when_there_was_one() {
        let curl =
            "curl: (35) OpenSSL/3.0.17: error:0A000458:SSL routines::tlsv1 unrecognized name\n";
        assert_eq!(curl_reason(curl), "tlsv1 unrecognized name");
        let openssl = "4027F5:error:0A000458:SSL routines:ssl3_read_bytes:tlsv1 unrecognized name:\
                       ../ssl/record/rec_layer_s3.c:1593:SSL alert number 112\n";
        assert_eq!(
            openssl_reason(openssl),
            "tlsv1 unrecognized name (alert 112)"
        );
    }

    #[test]
    fn reason_is_what_the_client_says_when_there_was_no_alert() {
        assert_eq!(
            curl_reason("curl: (7) Failed to connect\n"),
            "(7) Failed to connect"
        );
        assert_eq!(
            openssl_reason("40:error\nconnect:errno=111\n"),
            "connect:errno=111"
        );
        assert_eq!(openssl_reason(""), "no response");
    }

    #[test]
    fn first_byte_is_noted_when_the_response_comes_not_before() {
        let (text, first) =
            read_response(&mut &b"CONNECTED\nHTTP/1.0 200 ok\r\n"[..], Instant::now()).unwrap();
        assert!(text.ends_with("ok\r\n") && first.is_some());
        let (_, first) = read_response(&mut &b"CONNECTED\nno peer"[..], Instant::now()).unwrap();
        assert_eq!(first, None);
    }
}
