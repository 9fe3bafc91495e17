//! The gateway under real web servers: Apache with mod_cgid and mod_fcgid, nginx with FastCGI; and what Apache does to an answer
//! that it compresses. Where one is not installed its tests say so and pass.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use daemon_support::{Answer, Home, Server, connect_tcp, exchange, until};

const MODULES: &str = "/usr/lib/apache2/modules";
const SETTINGS: &[&str] = &[
    "namespace_default.public=true",
    "namespace_default.anonymous_publish=true",
];
const ODD: &str = "a%2Fb%3Fc+d%26e%25%C3%A9";

/// A web server in the foreground, ended by its process id.
struct Web {
    child: Child,
    address: SocketAddr,
    responder: Option<Child>,
}

impl Web {
    fn start(mut command: Command, address: SocketAddr) -> Self {
        // Apache ends its whole process group, which must not be ours.
        let child = command.process_group(0).spawn().unwrap();
        until("the web server answers", || TcpStream::connect(address).ok());
        Self {
            child,
            address,
            responder: None,
        }
    }

    fn connect(&self) -> TcpStream {
        connect_tcp(self.address)
    }

    fn get(&self, path: &str) -> Answer {
        http(self.connect(), "GET", path, "", "")
    }

    /// Opens a stream and reads to the first line that has this in it.
    fn stream(&self, path: &str, headers: &str) -> BufReader<TcpStream> {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: comet\r\n{headers}\r\n").unwrap();
        BufReader::new(stream)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        daemon_support::kill(self.child.id(), rustix::process::Signal::TERM);
        // It may have ended already.
        let _ = self.child.wait();
        if let Some(mut responder) = self.responder.take() {
            let _ = responder.kill();
            let _ = responder.wait();
        }
    }
}

/// One request, of HTTP/1.0: web servers put what comes in pieces into chunks otherwise.
fn http(stream: TcpStream, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: comet\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    Answer::of(&exchange(stream, request))
}

fn line_with(stream: &mut impl BufRead, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(
            stream.read_line(&mut line).unwrap(),
            0,
            "it ended before {text:?}"
        );
        if line.contains(text) {
            return line;
        }
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn is_there(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        eprintln!("not tested: {path} is not installed");
    }
    there
}

/// A home that the web server's user may look into, with a program for it to run.
fn home() -> Home {
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path().join("cgi-bin")).unwrap();
    fs::create_dir(home.path().join("run")).unwrap();
    fs::set_permissions(home.path().join("run"), fs::Permissions::from_mode(0o777)).unwrap();
    let program = home.file(
        "cgi-bin/push.cgi",
        &format!(
            "#!/bin/sh\nCOMETSERVER_DATA_DIR={} exec {} cgi\n",
            home.data().display(),
            env!("CARGO_BIN_EXE_comet")
        ),
    );
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    home
}

fn apache(home: &Home, more: &str) -> Web {
    let address = free_port();
    let root = home.path().display();
    let user = if rustix::process::geteuid().is_root() {
        "User www-data\nGroup www-data\n"
    } else {
        ""
    };
    let config = format!(
        "ServerRoot {root}\nServerName comet\nListen {address}\nPidFile {root}/run/apache.pid\nErrorLog {root}/run/error.log\n\
         {user}LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule alias_module {MODULES}/mod_alias.so\n\
         StartServers 1\nServerLimit 2\nThreadsPerChild 25\nMaxRequestWorkers 50\n\
         <Directory {root}/cgi-bin>\nOptions +ExecCGI\nRequire all granted\n</Directory>\n{more}"
    );
    let file = home.file("apache.conf", &config);
    let mut command = Command::new("/usr/sbin/apache2");
    command.arg("-DFOREGROUND").arg("-f").arg(file);
    Web::start(command, address)
}

fn holds(home: &Home) -> u64 {
    let answer = home.http("GET", "/metrics", "");
    let line = answer
        .body
        .lines()
        .find(|line| line.starts_with("cometserver_holds "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

fn held(home: &Home, count: u64) {
    until(&format!("{count} are held"), || {
        (holds(home) == count).then_some(())
    });
}

/// What every web server must do: pass things on unchanged, and grant nothing.
fn judge(home: &Home, web: &Web, path: &str) {
    let sent = http(
        web.connect(),
        "POST",
        &format!("{path}/v1/publish?channel={ODD}"),
        "Content-Type: text/plain\r\n",
        "through it",
    );
    assert_eq!(sent.status, 200, "{sent:?}");
    let poll = web.get(&format!("{path}/v1/poll?channel={ODD}&cursor=earliest"));
    assert_eq!(poll.status, 200, "{poll:?}");
    assert_eq!(poll.json()["publications"][0]["channel"], "a/b?c d&e%é");
    assert_eq!(poll.json()["publications"][0]["data"], "through it");
    let tag = format!(
        "If-None-Match: \"{}\"\r\n",
        poll.json()["cursor"].as_str().unwrap()
    );
    let target = format!("{path}/v1/poll?channel={ODD}&wait_ms=0");
    assert_eq!(http(web.connect(), "GET", &target, &tag, "").status, 304);
    for (method, call) in [("POST", "admin/stop"), ("GET", "channels")] {
        let answer = http(web.connect(), method, &format!("{path}/v1/{call}"), "", "");
        assert_eq!(answer.status, 401, "{call}: {answer:?}");
    }
    let refused = "Authorization: Bearer not-a-key-of-ours\r\n";
    let answer = http(
        web.connect(),
        "GET",
        &format!("{path}/v1/poll?channel=a&wait_ms=0"),
        refused,
        "",
    );
    assert_eq!(answer.status, 401, "what is shown goes along");
    assert_eq!(web.get(&format!("{path}/v1/ws")).status, 501);

    // A poll that waits is told at once.
    let mut waiting = web.stream(&format!("{path}/v1/poll?channel=news"), "Connection: close\r\n");
    held(home, 1);
    home.ok(["publish", "news", "now"]);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"now\""), "{answer}");
    held(home, 0);
}

/// What a web server that streams must do besides.
fn judge_streaming(home: &Home, web: &Web, path: &str) {
    let mut streams: Vec<_> = (0..3)
        .map(|_| web.stream(&format!("{path}/v1/sse?channel=news"), ""))
        .collect();
    for stream in &mut streams {
        assert!(line_with(stream, "HTTP/1.1").contains("200"));
        line_with(stream, "text/event-stream");
        line_with(stream, "id: ");
    }
    for text in ["one", "two"] {
        home.ok(["publish", "news", text]);
        for stream in &mut streams {
            assert!(line_with(stream, "data: ").contains(text));
        }
    }
    held(home, 3);
    drop(streams);
    held(home, 0);
}

#[test]
fn apache_with_mod_cgid_streams_and_notices_who_has_left() {
    if !is_there("/usr/sbin/apache2") {
        return;
    }
    let home = home();
    let _server: Server = home.serve(SETTINGS);
    let root = home.path().display();
    let web = apache(
        &home,
        &format!(
            "LoadModule cgid_module {MODULES}/mod_cgid.so\nScriptSock {root}/run/cgid.sock\n\
             <Location /cgi-bin/>\nCGIPassAuth on\n</Location>\nScriptAlias /cgi-bin/ {root}/cgi-bin/\n"
        ),
    );
    judge(&home, &web, "/cgi-bin/push.cgi");
    judge_streaming(&home, &web, "/cgi-bin/push.cgi");
    // What the visitor writes becomes the program's arguments here.
    assert_eq!(web.get("/cgi-bin/push.cgi?stop").status, 404);
    assert!(home.pid().is_some());
}

#[test]
fn apache_with_mod_fcgid_passes_polls_on() {
    let module = format!("{MODULES}/mod_fcgid.so");
    if !is_there(&module) {
        return;
    }
    let home = home();
    let _server: Server = home.serve(SETTINGS);
    let root = home.path().display();
    let web = apache(
        &home,
        &format!(
            "LoadModule fcgid_module {module}\nFcgidIPCDir {root}/run\nFcgidProcessTableFile {root}/run/fcgid.shm\nFcgidPassHeader Authorization\n\
             Alias /push {root}/cgi-bin/push.cgi\n<Location /push>\nSetHandler fcgid-script\n</Location>\n"
        ),
    );
    judge(&home, &web, "/push");
}

/// The entity tag of an answer to a browser that takes compressed ones.
fn tag_of_compressed(web: &Web, target: &str, tag: &str) -> String {
    let mut stream = web.connect();
    let headers = format!("Accept-Encoding: gzip\r\n{tag}");
    write!(stream, "GET {target} HTTP/1.0\r\nHost: comet\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines();
    let tag = lines.find_map(|line| line.strip_prefix("ETag: "));
    tag.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn apache_that_compresses_marks_tags_and_polls_go_on_from_them() {
    if !is_there("/usr/sbin/apache2") {
        return;
    }
    let home = home();
    let _server: Server = home.serve(SETTINGS);
    let root = home.path().display();
    let socket = home.data().join("public/comet.sock");
    let modules = ["cgid", "proxy", "proxy_http", "filter", "deflate"];
    let modules = modules.map(|name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n"));
    let web = apache(
        &home,
        &format!(
            "{}ScriptSock {root}/run/cgid.sock\nScriptAlias /cgi-bin/ {root}/cgi-bin/\n\
             ProxyPass /push/ unix:{}|http://comet/\nAddOutputFilterByType DEFLATE application/json\n",
            modules.concat(),
            socket.display()
        ),
    );
    // What is very short is not compressed.
    let publish = |text: &str| home.ok(["publish", "news", &text.repeat(500)]);
    publish("old");
    for path in ["/push", "/cgi-bin/push.cgi"] {
        let target = format!("{path}/v1/poll?channel=news&wait_ms=0&retained=0");
        let mut tag = tag_of_compressed(&web, &format!("{target}&cursor=earliest"), "");
        // From answer to answer, as an interval poll does.
        for text in ["one", "two"] {
            assert!(tag.ends_with("-gzip\""), "{path}: {tag}: Apache changes it");
            let known = format!("If-None-Match: {tag}\r\n");
            let either = format!("If-None-Match: \"0-gzip\", W/{tag}\r\n");
            for known in [&known, &either] {
                assert_eq!(
                    http(web.connect(), "GET", &target, known, "").status,
                    304,
                    "{path}"
                );
            }
            publish(text);
            for known in [&known, &either] {
                let answer = http(web.connect(), "GET", &target, known, "").json();
                let publications = answer["publications"].as_array().unwrap();
                assert_eq!(publications.len(), 1, "{path}: nothing but what is new");
                assert_eq!(publications[0]["data"], text.repeat(500), "{path}");
            }
            tag = tag_of_compressed(&web, &target, &known);
        }
    }
}

#[test]
fn nginx_with_fastcgi_streams_and_notices_who_has_left() {
    if !is_there("/usr/sbin/nginx") {
        return;
    }
    let home = home();
    let _server: Server = home.serve(SETTINGS);
    let root = home.path().display();
    let socket = home.path().join("run/push.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let mut responder = home.command(["cgi"]);
    responder.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let responder = responder.spawn().unwrap();

    let address = free_port();
    let config = format!(
        "daemon off; pid {root}/run/nginx.pid; error_log {root}/run/error.log; events {{}}\n\
         http {{ access_log off; fastcgi_temp_path {root}/run/f; client_body_temp_path {root}/run/b; proxy_temp_path {root}/run/p;\n\
         uwsgi_temp_path {root}/run/u; scgi_temp_path {root}/run/s;\n\
         server {{ listen {address}; location /push/ {{ include /etc/nginx/fastcgi_params; fastcgi_pass unix:{}; }} }} }}\n",
        socket.display()
    );
    let file = home.file("nginx.conf", &config);
    let mut command = Command::new("/usr/sbin/nginx");
    command
        .arg("-c")
        .arg(file)
        .arg("-e")
        .arg(home.path().join("run/error.log"));
    let mut web = Web::start(command, address);
    web.responder = Some(responder);
    judge(&home, &web, "/push");
    judge_streaming(&home, &web, "/push");
}
