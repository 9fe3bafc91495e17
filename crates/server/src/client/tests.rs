//! The client against servers of canned bytes, on real sockets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;

use super::*;

/// Answers each connection with the next of these texts and hands out the requests it got. Ends with its last answer.
fn server(answers: Vec<&'static str>) -> (Client, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from_url(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !is_whole(&request) {
                match socket.read(&mut buffer).unwrap() {
                    0 => break,
                    count => request.extend_from_slice(&buffer[..count]),
                }
            }
            sender.send(String::from_utf8(request).unwrap()).unwrap();
            // In two pieces, so that every parser meets a cut.
            let (first, second) = answer.split_at(answer.len() / 2);
            socket.write_all(first.as_bytes()).unwrap();
            socket.flush().unwrap();
            socket.write_all(second.as_bytes()).unwrap();
        }
    });
    (Client::new(address), requests)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap_or("0");
    body.len() >= length.parse().unwrap()
}

fn object(heard: Heard) -> Value {
    match heard {
        Heard::Object { object, .. } => object,
        other => panic!("{other:?}"),
    }
}

use serde_json::Value;

#[test]
fn a_body_is_read_by_length_by_chunks_or_to_the_end() {
    let (client, _requests) = server(vec![
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ]);
    for _ in 0..4 {
        assert_eq!(client.get(&Path::new("/")).unwrap().body, b"hello");
    }
}

#[test]
fn a_request_carries_its_query_key_and_body_exactly() {
    let (client, requests) = server(vec!["HTTP/1.1 204 No Content\r\n\r\n"]);
    let client = client.with_key(Some("secret".to_owned())).unwrap();
    let path = Path::new("/v1/publish")
        .with("channel", b"a/b?c d&e%\xff")
        .with("kind", "text");
    client
        .call(
            "POST",
            &path,
            Some(Payload {
                media_type: "text/plain",
                bytes: b"two\nlines",
            }),
        )
        .unwrap();
    let request = requests.recv().unwrap();
    assert!(
        request.starts_with("POST /v1/publish?channel=a%2Fb%3Fc+d%26e%25%FF&kind=text HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("\r\nAuthorization: Bearer secret\r\n"));
    assert!(request.ends_with("\r\nContent-Length: 9\r\n\r\ntwo\nlines"));
}

#[test]
fn a_problem_becomes_an_error_with_its_code_and_detail() {
    let (client, _requests) = server(vec![
        "HTTP/1.1 403 Forbidden\r\n\r\n{\"code\":\"forbidden\",\"title\":\"no\",\"detail\":\"ask for the right to it\"}",
        "HTTP/1.1 502 Bad Gateway\r\n\r\n<h1>nginx</h1>\nmore",
    ]);
    let error = client.get(&Path::new("/")).unwrap_err();
    assert_eq!(error.to_string(), "ask for the right to it (403 forbidden)");
    assert_eq!(error.status(), Some(403));
    let error = client.get(&Path::new("/")).unwrap_err();
    assert_eq!(error.to_string(), "<h1>nginx</h1> (502)");
    assert!(error.may_pass());
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let (client, _requests) = server(vec![
        "",
        "ok \0",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
    ]);
    let reasons = ["without an answer", "no HTTP", "closed the connection"];
    for reason in reasons {
        let error = client.get(&Path::new("/")).unwrap_err();
        assert!(
            matches!(&error, ClientError::Broken { reason: found, .. } if found.contains(reason)),
            "{error}"
        );
    }
}

#[test]
fn nobody_listening_is_not_running_and_a_silent_server_is_a_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comet.sock");
    let client = Client::new(Address::Unix(path.clone())).with_answer_timeout(Duration::from_millis(1));
    assert!(matches!(
        client.probe().unwrap_err(),
        ClientError::NotRunning { .. }
    ));

    let listener = UnixListener::bind(&path).unwrap();
    client.probe().unwrap();
    assert!(matches!(
        client.get(&Path::new("/")).unwrap_err(),
        ClientError::Timeout { .. }
    ));

    drop(listener);
    let error = client.probe().unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("not running"));
}

#[test]
fn a_socket_that_is_not_for_us_names_both_users() {
    // Root may connect to anything, so only the text can be checked there.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comet.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let address = Address::Unix(path);
    let error = address.explain(&io::ErrorKind::PermissionDenied.into());
    assert!(
        matches!(&error, ClientError::Denied { owner, user, .. } if owner == user),
        "{error}"
    );
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(
            Client::new(address).probe().unwrap_err(),
            ClientError::Denied { .. }
        ));
    }
}

#[test]
fn a_path_that_fits_in_no_socket_address_is_said_to_be_too_long() {
    let client = Client::new(Address::Unix("/x".repeat(60).into()));
    let error = client.probe().unwrap_err();
    assert!(error.to_string().contains("120 bytes long, at most"), "{error}");
}

#[test]
fn addresses_are_http_with_a_host() {
    let parsed = |url| Address::from_url(url).map(|address| address.to_string());
    assert_eq!(parsed("http://localhost:8080").unwrap(), "http://localhost:8080");
    assert_eq!(parsed("http://localhost").unwrap(), "http://localhost:80");
    assert_eq!(parsed("http://[::1]:1/push/").unwrap(), "http://[::1]:1/push");
    assert_eq!(parsed("http://[::1]").unwrap(), "http://[::1]:80");
    for bad in [
        "localhost:8080",
        "https://x",
        "http://",
        "http://a:b@c",
        "http://x:99999",
        "http://x/?a",
        "http://a b",
    ] {
        assert!(
            matches!(parsed(bad), Err(ClientError::BadAddress { .. })),
            "{bad}"
        );
    }
}

#[test]
fn a_stream_goes_on_at_its_cursor_after_a_cut() {
    let (client, requests) = server(vec![
        "HTTP/1.1 200 OK\r\n\r\n{\"type\":\"cursor\",\"cursor\":\"c1\"}\n\n{\"type\":\"publication\",\"data\":1,\"cursor\":\"c2\"}\n",
        "HTTP/1.1 503 Unavailable\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n22\r\n{\"type\":\"reconnect\",\"after_ms\":77}\r\n1\r\n\n\r\n0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\n\r\n",
    ]);
    let interest = Interest {
        channels: vec![b"a b".to_vec()],
        patterns: vec!["x/*".to_owned()],
        ..Interest::default()
    };
    let mut follow = Follow::new(client, interest);
    assert_eq!(object(follow.listen().unwrap())["cursor"], "c1");
    assert_eq!(object(follow.listen().unwrap())["data"], 1);
    assert!(matches!(follow.listen().unwrap(), Heard::Cut { .. }));
    assert!(matches!(follow.listen().unwrap(), Heard::Cut { .. }));
    assert!(
        matches!(follow.listen().unwrap(), Heard::Cut { pause, .. } if pause == Duration::from_millis(77))
    );
    assert_eq!(follow.listen().unwrap_err().status(), Some(403));
    assert_eq!(follow.cursor(), Some("c2"));

    let lines: Vec<_> = requests
        .iter()
        .map(|request| request.lines().next().unwrap().to_owned())
        .collect();
    assert_eq!(
        lines[0],
        "GET /v1/stream?channel=a+b&pattern=x%2F%2A&retained=0 HTTP/1.1"
    );
    assert!(
        lines[1..].iter().all(|line| line.contains("&cursor=c2&")),
        "{lines:?}"
    );
}

#[test]
fn a_line_whose_value_cannot_be_read_is_stepped_over_with_its_cursor() {
    let (client, requests) = server(vec![
        "HTTP/1.1 200 OK\r\n\r\n{\"type\":\"cursor\",\"cursor\":\"c1\"}\n\
         {\"type\":\"publication\",\"channel\":\"a\",\"offset\":7,\"data\":\"\\ud83d\",\"cursor\":\"c2\"}\n\
         {\"type\":\"join\",\"channel\":\"a\",\"user\":\"u\",\"info\":1e400,\"cursor\":\"c3\"}\n\
         {\"type\":\"publication\",\"data\":1,\"cursor\":\"c4\"}\n\
         {\"type\":\"publication\",\"data\":\n",
        "HTTP/1.1 403 Forbidden\r\n\r\n",
    ]);
    let mut follow = Follow::new(client, Interest::default());
    let unreadable = |heard: Heard| match heard {
        Heard::Unreadable { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(object(follow.listen().unwrap())["cursor"], "c1");
    assert_eq!(unreadable(follow.listen().unwrap()), "a #7");
    assert_eq!(follow.cursor(), Some("c2"));
    assert_eq!(unreadable(follow.listen().unwrap()), "a, join");
    assert_eq!(follow.cursor(), Some("c3"));
    assert_eq!(object(follow.listen().unwrap())["data"], 1);
    // What is no JSON at all is a fault of the way: the connection is made anew, and goes on where it was.
    assert!(matches!(follow.listen().unwrap(), Heard::Cut { .. }));
    assert_eq!(follow.listen().unwrap_err().status(), Some(403));
    assert!(requests.iter().nth(1).unwrap().contains("cursor=c4"));
}

#[test]
fn a_stream_that_never_began_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(Address::Unix(folder.path().join("none")));
    let mut follow = Follow::new(client, Interest::default());
    assert!(matches!(
        follow.listen().unwrap_err(),
        ClientError::NotRunning { .. }
    ));
}
