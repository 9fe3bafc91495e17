//! `comet cgi` as a web server runs it: variables, standard input, standard output. What web servers add is in gateway.rs.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use daemon_support::{Answer, Home, Server, connect, http, kill, until, wait_for_end};
use rustix::process::Signal;

const OPEN: &[&str] = &["namespace_default.public=true", "held.cgi.max=3"];

/// The program as a web server starts it for this request.
fn cgi(home: &Home, method: &str, path: &str, query: &str) -> Command {
    let mut command = home.command(["cgi"]);
    command
        .env("GATEWAY_INTERFACE", "CGI/1.1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("SCRIPT_FILENAME", "/srv/www/push.cgi")
        .env("HTTP_HOST", "example.org")
        .env("REMOTE_ADDR", "192.0.2.7")
        .stdout(Stdio::piped());
    command
}

/// A whole answer: a head of CGI, and a body.
fn answer(command: &mut Command) -> Answer {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rest = text
        .strip_prefix("Status: ")
        .unwrap_or_else(|| panic!("{text:?}"));
    Answer::of(format!("HTTP/1.1 {rest}").as_bytes())
}

/// A visitor who waits.
struct Waiting {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Waiting {
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().map(BufReader::new);
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// Reads up to a line with this in it.
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "it ended before {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn holds(home: &Home) -> u64 {
    let answer = home.http("GET", "/metrics", "");
    let line = answer
        .body
        .lines()
        .find(|line| line.starts_with("cometserver_holds "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

fn publish(home: &Home, channel: &str, text: &str) {
    let path = format!("/v1/publish?channel={channel}&kind=text");
    assert_eq!(home.http("POST", &path, text).status, 200);
}

#[test]
fn a_poll_is_answered_with_the_servers_own_status_and_headers() {
    let home = Home::new();
    let _server = home.serve(OPEN);
    let odd = "a%2Fb%3Fc+d%26e%25%C3%A9";
    publish(&home, odd, "for it");
    let query = format!("channel={odd}&cursor=earliest");
    let first = answer(&mut cgi(&home, "GET", "/v1/poll", &query));
    assert_eq!(first.status, 200);
    assert_eq!(first.json()["publications"][0]["data"], "for it");
    assert_eq!(first.json()["publications"][0]["channel"], "a/b?c d&e%é");
    assert!(first.head.contains("ETag: ") && !first.head.contains("Connection"));
    let tag = format!("\"{}\"", first.json()["cursor"].as_str().unwrap());
    let query = format!("channel={odd}&wait_ms=0");
    let again = answer(cgi(&home, "GET", "/v1/poll", &query).env("HTTP_IF_NONE_MATCH", tag));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let refused = answer(&mut cgi(&home, "GET", "/v1/channels", ""));
    assert_eq!(
        refused.status, 401,
        "it came through a program of ours, which proves nothing"
    );
}

#[test]
fn a_stream_comes_as_it_happens_and_ends_with_its_visitor() {
    let home = Home::new();
    let _server = home.serve(OPEN);
    for (signal, path) in [
        (None, "/v1/sse"),
        (Some(Signal::TERM), "/v1/sse"),
        (None, "/v1/stream"),
        (None, "/v1/poll"),
    ] {
        let mut waiting = Waiting::of(cgi(&home, "GET", path, "channel=news&wait_ms=60000"));
        until("it is held", || (holds(&home) == 1).then_some(()));
        if path != "/v1/poll" {
            assert_eq!(waiting.line(), "Status: 200 OK\r\n");
            waiting.until(if path == "/v1/sse" { "id: " } else { "cursor" });
            publish(&home, "news", "at once");
            assert!(waiting.until("at once").contains("publication"));
        }
        match signal {
            // What Apache does with a program whose visitor has left.
            Some(signal) => kill(waiting.child.id(), signal),
            None => drop(waiting.out.take()),
        }
        wait_for_end(waiting.child.id());
        until("its place is free", || (holds(&home) == 0).then_some(()));
    }
}

#[test]
fn publishing_takes_a_key_and_a_body() {
    let home = Home::new();
    let file = home.file(
        "comet.toml",
        "[[keys]]\nname = \"site\"\nsecret = \"0123456789abcdef\"\nactions = [\"publish\"]\n",
    );
    let mut command = home.command(["serve"]);
    command.arg("--config").arg(file);
    let _server = Server::of(command);
    let send = |key: &str, body: &[u8], length: usize| {
        let mut command = cgi(&home, "POST", "/v1/publish", "channel=news");
        command
            .env("HTTP_AUTHORIZATION", format!("Bearer {key}"))
            .env("CONTENT_TYPE", "text/plain")
            .env("CONTENT_LENGTH", length.to_string())
            .stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It need not read what it refuses.
        let _ = stdin.write_all(body);
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let large = vec![b'x'; 900_000];
    assert!(send("0123456789abcdef", &large, large.len()).starts_with("Status: 200"));
    assert!(send("0123456789abcdeX", b"hello", 5).starts_with("Status: 401"));
    assert!(send("0123456789abcdef", b"hello and what is not ours", 5).starts_with("Status: 200"));
    let too_large = vec![b'x'; 4 << 20];
    assert!(send("0123456789abcdef", &too_large, too_large.len()).starts_with("Status: 413"));
    let history = home
        .http("GET", "/v1/history?channel=news&limit=1&reverse=1", "")
        .json();
    assert_eq!(history["publications"][0]["data"], "hello");
    assert_eq!(history["offset"], 2);
}

#[test]
fn visitors_who_only_say_route_take_no_place_of_the_programs() {
    let home = Home::new();
    let _server = home.serve(OPEN);
    let held = || holds(&home);
    let public = home.data().join("public/comet.sock");
    // More than there are places; those beyond are answered at once.
    let mut pretenders: Vec<UnixStream> = Vec::new();
    for _ in 0..6 {
        let mut stream = UnixStream::connect(&public).unwrap();
        let request = "GET /v1/poll?channel=news&route=cgi HTTP/1.1\r\nHost: comet\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        pretenders.push(stream);
    }
    until("they have all of theirs", || (held() == 3).then_some(()));
    let _waiting: Vec<Waiting> = (0..3)
        .map(|_| Waiting::of(cgi(&home, "GET", "/v1/poll", "channel=news")))
        .collect();
    until("the program has all of its own", || (held() == 6).then_some(()));
    let full = answer(&mut cgi(&home, "GET", "/v1/poll", "channel=news")).json();
    assert!(full["retry_ms"].is_u64(), "{full}");
}

#[test]
fn two_visitors_are_told_apart_and_a_claimed_address_is_not_believed() {
    let home = Home::new();
    let per_address = [OPEN, &["limits.connections_per_address=1"]].concat();
    let _server = home.serve(&per_address);
    let ask = |address: &str, claimed: &str| {
        let mut command = cgi(&home, "GET", "/v1/poll", "channel=news");
        command.env("REMOTE_ADDR", address);
        command.env("HTTP_X_FORWARDED_FOR", claimed);
        command
    };
    let _one = Waiting::of(ask("192.0.2.7", "192.0.2.9"));
    until("one waits", || (holds(&home) == 1).then_some(()));
    let again = answer(&mut ask("192.0.2.7", "192.0.2.10")).json();
    assert!(again["retry_ms"].is_u64(), "{again}");
    let _two = Waiting::of(ask("192.0.2.8", "192.0.2.7"));
    until("another visitor waits", || (holds(&home) == 2).then_some(()));
}

#[test]
fn the_body_of_a_visitor_who_leaves_publishes_nothing() {
    let home = Home::new();
    let _server = home.serve(&[
        "namespace_default.public=true",
        "namespace_default.anonymous_publish=true",
    ]);
    let mut command = cgi(&home, "POST", "/v1/publish", "channel=news");
    command
        .env("CONTENT_LENGTH", "100")
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"half of it").unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(
        home.http("GET", "/v1/history?channel=news", "").json()["offset"],
        0
    );
}

#[test]
fn a_body_that_never_comes_is_waited_for_no_longer_than_by_the_server() {
    let home = Home::new();
    let mut flags = OPEN.to_vec();
    flags.extend([
        "namespace_default.anonymous_publish=true",
        "limits.request_time=1s",
    ]);
    let _server = home.serve(&flags);
    for sent in [&b""[..], b"half of it"] {
        let mut command = cgi(&home, "POST", "/v1/publish", "channel=news");
        command.env("CONTENT_LENGTH", "20").stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut body = child.stdin.take().unwrap();
        body.write_all(sent).unwrap();
        // The visitor stays, and says nothing more.
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("Status: 408 "), "{text:?}");
        drop(body);
    }
    let history = home.http("GET", "/v1/history?channel=news", "").json();
    assert_eq!(history["publications"].as_array().unwrap().len(), 0);
}

#[test]
fn what_a_visitor_writes_behind_the_question_mark_is_no_command() {
    let home = Home::new();
    let _server = home.serve(OPEN);
    let mut command = home.command(["stop"]);
    command
        .env("GATEWAY_INTERFACE", "CGI/1.1")
        .env("REQUEST_METHOD", "GET")
        .env("QUERY_STRING", "stop");
    assert_eq!(answer(&mut command).status, 404);
    assert!(home.pid().is_some(), "it still runs");
    for query in ["a HTTP/1.1\r\n\r\nPOST /v1/admin/stop", "a b", "a\n"] {
        assert_eq!(
            answer(&mut cgi(&home, "GET", "/v1/poll", query)).status,
            400,
            "{query:?}"
        );
    }
}

#[test]
fn without_a_server_a_browser_is_told_to_come_back() {
    let home = Home::new();
    let down = answer(&mut cgi(&home, "GET", "/v1/poll", "channel=news"));
    assert_eq!(down.status, 503);
    assert!(down.head.contains("Retry-After: 3"), "{down:?}");
    let stream = answer(&mut cgi(&home, "GET", "/v1/sse", "channel=news"));
    assert_eq!((stream.status, stream.body.as_str()), (200, "retry: 3000\n"));
    assert!(!home.data().exists(), "nobody told it to start one");
}

#[test]
fn many_visitors_at_once_start_one_server_and_all_are_served() {
    let home = Home::new();
    let config = home.file("comet.toml", "namespace_default.public = true\n");
    let command = |program: &str| {
        let mut command = cgi(&home, "GET", "/v1/poll", "channel=news&wait_ms=0");
        command
            .env("COMETSERVER_CGI_START", "1")
            .env("COMETSERVER_CONFIG", &config)
            .env("HTTP_COOKIE", program);
        command
    };
    let visitors: Vec<Child> = (0..12).map(|_| command("x").spawn().unwrap()).collect();
    for visitor in visitors {
        let output = visitor.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("Status: 200"), "{text}");
    }
    let log = std::fs::read_to_string(home.data().join("comet.log")).unwrap();
    assert_eq!(log.matches("\"listening\"").count(), 1, "{log}");
    let pid = home.pid().unwrap();
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default();
    assert!(
        !environment.contains("HTTP_"),
        "nothing of a visitor's: {environment}"
    );
}

#[test]
fn a_server_that_ended_for_want_of_visitors_is_started_again_by_the_next() {
    let home = Home::new();
    let config = home.file(
        "comet.toml",
        "exit_when_idle = \"3s\"\nnamespace_default = { public = true, history = { count = 5 } }\n",
    );
    let visit = || {
        let mut command = cgi(&home, "GET", "/v1/poll", "channel=news&wait_ms=0");
        command
            .env("COMETSERVER_CGI_START", "1")
            .env("COMETSERVER_CONFIG", &config);
        answer(&mut command)
    };
    let mut pids = Vec::new();
    for _ in 0..2 {
        assert_eq!(visit().status, 200);
        let pid = home.pid().unwrap();
        wait_for_end(pid);
        assert!(!home.socket().exists() && home.pid().is_none());
        pids.push(pid);
    }
    assert_ne!(pids[0], pids[1]);
    // Whoever waits keeps it running.
    let held = Waiting::of({
        let mut command = cgi(&home, "GET", "/v1/poll", "channel=news&wait_ms=60000");
        command
            .env("COMETSERVER_CGI_START", "1")
            .env("COMETSERVER_CONFIG", &config);
        command
    });
    // The file of a socket is there before anybody listens on it.
    until("it listens", || UnixStream::connect(home.socket()).ok());
    let pid = home.pid().unwrap();
    until("it is held", || (holds(&home) == 1).then_some(()));
    publish(&home, "news", "news");
    wait_for_end(held.child.id());
    wait_for_end(pid);
}

#[test]
fn a_start_that_fails_is_not_tried_for_every_visitor() {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    let config = home.file("comet.toml", "nonsense = 1\n");
    let visit = || {
        let mut command = cgi(&home, "GET", "/v1/poll", "channel=news");
        answer(
            command
                .env("COMETSERVER_CGI_START", "1")
                .env("COMETSERVER_CONFIG", &config),
        )
    };
    let detail = |answer: Answer| answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail(visit()).contains("could not be started: "));
    assert!(detail(visit()).contains("a moment ago"));
}

#[test]
fn something_else_behind_the_socket_is_not_passed_on() {
    let home = Home::new();
    std::fs::create_dir_all(home.data().join("public")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(home.public_socket()).unwrap();
    for (said, status) in [
        (&b"SSH-2.0-OpenSSH\r\n\r\n"[..], 503),
        (b"", 503),
        (b"HTTP/1.1 200 OK\r\nno end", 503),
    ] {
        let child = cgi(&home, "GET", "/v1/poll", "channel=news").spawn().unwrap();
        let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
        stream.write_all(said).unwrap();
        drop(stream);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(&format!("Status: {status}")), "{said:?}: {text}");
    }
}

#[test]
fn a_silent_stream_carries_comments_and_a_released_one_ends() {
    let home = Home::new();
    let _server = home.serve(OPEN);
    let mut waiting = Waiting::of(cgi(&home, "GET", "/v1/sse", "channel=news&session=mine"));
    waiting.until("id: ");
    assert_eq!(waiting.line(), "\n");
    assert_eq!(
        waiting.line(),
        ":\n",
        "so that the web server notices who has left"
    );
    let public = connect(&home.public_socket());
    let released = http(public, "POST", "/v1/release?session=mine", "", "");
    assert_eq!(released.json()["released"], 1);
    wait_for_end(waiting.child.id());
}
