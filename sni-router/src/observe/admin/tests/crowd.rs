//! Those who connect and ask nothing, or little.

use tokio::time::{Instant, timeout};

use super::super::serving::{ASKING, MOST};
use super::*;

/// More than any time that the API gives.
const LONG: Duration = Duration::from_secs(600);

/// Less than what a connection gets that says nothing.
const SOON: Duration = Duration::from_secs(5);

/// Time passes as soon as everybody waits for it.
#[tokio::test(start_paused = true)]
async fn connection_is_closed_that_sends_no_whole_head_in_time() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let head = "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n";
    let whole = format!("{head}\r\n");
    for said in ["", head, &whole] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        let begun = Instant::now();
        client.write_all(said.as_bytes()).await.unwrap();
        let answer = closed_within(LONG, &mut client).await;
        assert!(begun.elapsed() >= ASKING && begun.elapsed() < ASKING * 2);
        let is_answered = answer.starts_with("HTTP/1.1 200");
        assert_eq!(is_answered, said == whole, "{said:?}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_that_goes_on_is_not_ended() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let mut follower = follow(addr).await;
    assert!(timeout(LONG, follower.read_u8()).await.is_err());
}

#[tokio::test]
async fn who_asks_is_answered_beside_any_number_that_say_nothing() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let mut follower = follow(addr).await;
    let mut idle = Vec::new();
    for _ in 0..MOST * 3 {
        idle.push(TcpStream::connect(addr).await.unwrap());
        // Each is accepted before this is answered.
        let answer = get_tcp(addr, "/healthz", "127.0.0.1");
        let answer = timeout(SOON, answer).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let last = idle.split_off(idle.len() - MOST + 2);
    for client in &mut idle[..MOST] {
        let said = closed_within(SOON, client).await;
        assert_eq!(said, "", "the oldest make room");
    }
    for client in last.iter().chain([&follower]) {
        let mut byte = [0];
        let error = client.try_read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it is still open");
    }
    // The same on a connection that was there all the while.
    drop(last);
    assert!(timeout(ASKING / 10, follower.read_u8()).await.is_err());
}

#[tokio::test]
async fn connection_is_closed_at_once_where_all_others_are_answered() {
    let (_admin, addr, _) = start("127.0.0.1:0").await;
    let mut followers = Vec::new();
    for _ in 0..MOST {
        followers.push(follow(addr).await);
    }
    let mut client = TcpStream::connect(addr).await.unwrap();
    assert_eq!(closed_within(SOON, &mut client).await, "");
    drop(followers.pop());
    until_answered(addr).await;
}

/// Somebody who is told steps, of which there are none.
async fn follow(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = "GET /api/v1/trace HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    stream
}

/// What comes until the other side closes.
async fn closed_within(limit: Duration, stream: &mut TcpStream) -> String {
    let mut all = String::new();
    let read = stream.read_to_string(&mut all);
    timeout(limit, read).await.expect("it is closed").unwrap();
    all
}

/// That a place has become free is noticed a moment later.
async fn until_answered(addr: SocketAddr) {
    timeout(ASKING, async {
        loop {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
            let mut answer = String::new();
            // Fails where it has been closed already.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_string(&mut answer).await;
            if answer.starts_with("HTTP/1.1 200") {
                return;
            }
        }
    })
    .await
    .expect("an answer");
}
