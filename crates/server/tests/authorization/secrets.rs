//! No secret is shown or logged.

use cometserver_core::action::Action;
use serde_json::json;

use crate::api_support::{
    ADMIN, Client, GUARDED, MONITOR, OLDER_SECRET, PUBLISHER, READER, TOKEN_SECRET, TestServer, claims,
    signed,
};
use crate::comet;

#[test]
fn no_secret_is_shown_by_what_the_server_says_of_itself() {
    let server = TestServer::start(GUARDED);
    let settings = server.shared.settings();
    let debug = format!("{settings:?} {:?}", settings.config);
    let token = signed(&claims(Some("alice"), &["a"], &[], &[Action::Subscribe]));
    let mut client = server.public().bearing(&token[..token.len() - 2]);
    let mut said = vec![debug];
    for target in ["/v1/poll?channel=a", "/v1/publish", "/v1/none", "/metrics"] {
        said.push(client.get(target).text().to_owned());
    }
    for target in ["/v1/stats", "/metrics", "/health/ready", "/openapi.json"] {
        said.push(server.backend().get(target).text().to_owned());
    }
    for secret in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        TOKEN_SECRET,
        OLDER_SECRET,
        &token[..40],
    ] {
        for text in &said {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn no_secret_token_or_payload_is_ever_logged() {
    use std::io::{BufRead, BufReader, Read};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("comet.toml");
    std::fs::write(&file, GUARDED).unwrap();
    let mut server = comet()
        .arg("serve")
        .args(["--config", file.to_str().unwrap()])
        .args(["--data-dir", folder.path().join("data").to_str().unwrap()])
        .args(["--log-level", "trace"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("listening") {
        assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let socket = folder.path().join("data/public/comet.sock");
    let token = signed(&claims(Some("alice"), &["a"], &[], &[Action::Subscribe]));
    let payload = "payload-payload-payload";
    for credential in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        &token,
        "wrong-wrong-wrong-wrong",
    ] {
        let mut client = Client::unix(&socket).bearing(credential);
        client.post("/v1/publish?channel=a&kind=json", format!("\"{payload}\""));
        client.post("/v1/publish", payload);
        client.get(&format!("/v1/poll?channel=a&wait_ms=0&token={token}"));
        client.post("/v1/admin/reload", "");
    }
    let mut socket = Client::unix(&socket).websocket(&format!("/v1/ws?token={token}"));
    socket.object();
    socket.send(&json!({"type": "authorize", "id": 1, "token": "wrong-wrong-wrong-wrong"}));
    socket.next_of("error");
    assert_eq!(
        Client::unix(&folder.path().join("data/comet.sock"))
            .post("/v1/admin/stop", "")
            .status,
        200
    );
    log.read_to_string(&mut said).unwrap();
    assert!(server.wait().unwrap().success(), "{said}");
    assert!(said.contains("configuration read again"), "the log is on: {said}");
    for secret in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        TOKEN_SECRET,
        OLDER_SECRET,
        payload,
        &token[..40],
        "wrong-wrong",
    ] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}
