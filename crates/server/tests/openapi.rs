//! The served description of the API against the server: every call is made, every answer judged by its schema.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use std::collections::BTreeSet;

use api_support::{Answer, Client, GUARDED, ODD, OPEN, TestServer, encode};
use cometserver::endpoint::Endpoint;
use cometserver::http::Method;
use cometserver::metrics::{Label, Refusal};
use serde_json::{Value, json};

/// The served document, which judges answers.
struct Document(Value);

impl Document {
    fn served_by(server: &TestServer) -> Self {
        let answer = server.public().get("/openapi.json");
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json"))
        );
        Self(answer.json())
    }

    /// Every path with its methods and what is said of them.
    fn operations(&self) -> Vec<(String, String, Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(|(method, operation)| (path.clone(), method.to_uppercase(), operation.clone()))
        });
        operations.collect()
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self
                .0
                .pointer(&reference[1..])
                .unwrap_or_else(|| panic!("{reference}")),
            None => value,
        }
    }

    fn schema(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    /// Whether `value` is what the schema says, and holds no member that the schema does not tell of.
    fn judge(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let told = self.check(schema, value)?;
        let Some(object) = value.as_object() else {
            return Ok(());
        };
        match object.keys().find(|key| !told.is_empty() && !told.contains(*key)) {
            Some(key) => Err(format!("`{key}` is not described, in {value}")),
            None => Ok(()),
        }
    }

    /// The keywords that the document uses, no other. Returns the members told of.
    fn check(&self, schema: &Value, value: &Value) -> Result<BTreeSet<String>, String> {
        let mut told = BTreeSet::new();
        let fail = |what: &str| Err(format!("{what}: {value} against {schema}"));
        let list = |value: &Value| value.as_array().unwrap().clone();
        let size = || value.as_array().map_or(0, Vec::len) as u64;
        for (keyword, wanted) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "$ref" => told.extend(self.check(self.resolve(schema), value)?),
                "type" if !is_of_type(wanted, value) => return fail("another type"),
                "const" if value != wanted => return fail("another value"),
                "enum" if !list(wanted).contains(value) => return fail("another value"),
                "minimum" if value.as_f64() < wanted.as_f64() => return fail("too small"),
                "maximum" if value.as_f64() > wanted.as_f64() => return fail("too large"),
                "minLength" if (value.as_str().unwrap().len() as u64) < wanted.as_u64().unwrap() => {
                    return fail("too short");
                }
                "maxLength" if value.as_str().unwrap().len() as u64 > wanted.as_u64().unwrap() => {
                    return fail("too long");
                }
                "minItems" if size() < wanted.as_u64().unwrap() => return fail("too few"),
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.judge(wanted, item)?;
                    }
                }
                "required" => {
                    if let Some(missing) = list(wanted)
                        .iter()
                        .find(|name| value.get(name.as_str().unwrap()).is_none())
                    {
                        return fail(&format!("{missing} is missing"));
                    }
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().unwrap() {
                        told.insert(name.clone());
                        value
                            .get(name)
                            .map_or(Ok(()), |member| self.judge(schema, member))?;
                    }
                }
                "additionalProperties" => {
                    let known = schema["properties"].as_object();
                    for (name, member) in value.as_object().into_iter().flatten() {
                        if !known.is_some_and(|known| known.contains_key(name)) {
                            told.insert(name.clone());
                            self.judge(wanted, member)?;
                        }
                    }
                }
                "allOf" => {
                    for part in list(wanted) {
                        told.extend(self.check(&part, value)?);
                    }
                }
                "anyOf" | "oneOf" => {
                    let results: Vec<_> = list(wanted).iter().map(|part| self.check(part, value)).collect();
                    let good = results.iter().filter(|result| result.is_ok()).count();
                    if good == 0 || keyword == "oneOf" && good > 1 {
                        return fail(&format!("{good} alternatives fit: {results:?}"));
                    }
                    told.extend(results.into_iter().flatten().flatten());
                }
                "if" if self.check(wanted, value).is_ok() => told.extend(self.check(&schema["then"], value)?),
                "type" | "const" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength"
                | "minItems" | "if" | "then" => {}
                "description" | "default" | "examples" | "example" | "contentEncoding" | "discriminator" => {}
                other => panic!("the document uses `{other}`, which is not judged here"),
            }
        }
        Ok(told)
    }

    /// Whether an operation describes this answer.
    #[track_caller]
    fn accepts(&self, operation: &Value, what: &str, answer: &Answer) {
        let status = answer.status.to_string();
        let described = &operation["responses"][&status];
        assert!(
            !described.is_null(),
            "{what}: {status} is not described: {:?}",
            String::from_utf8_lossy(&answer.body)
        );
        let described = self.resolve(described);
        for name in described["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            assert!(
                answer.header(&name.to_lowercase()).is_some(),
                "{what}: {name} is missing"
            );
        }
        let Some(content) = described["content"].as_object() else {
            assert!(answer.body.is_empty(), "{what}: a body that is not described");
            return;
        };
        let kind = answer
            .header("content-type")
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap();
        let schema = &content
            .get(kind)
            .unwrap_or_else(|| panic!("{what}: {kind} is not described"))["schema"];
        let value = if kind.ends_with("json") {
            answer.json()
        } else {
            json!(String::from_utf8_lossy(&answer.body))
        };
        self.judge(schema, &value)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

fn is_of_type(wanted: &Value, value: &Value) -> bool {
    if let Some(several) = wanted.as_array() {
        return several.iter().any(|one| is_of_type(one, value));
    }
    match wanted.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}

/// The path with the parameters that a call needs, as the document gives examples of them.
fn target(document: &Document, path: &str, operation: &Value) -> String {
    let mut query = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let parameter = document.resolve(parameter);
        let name = parameter["name"].as_str().unwrap();
        let listens = operation["tags"] == json!(["listen"]);
        if parameter["required"] != true && !(listens && name == "channel") {
            continue;
        }
        let example = &parameter["example"];
        assert!(!example.is_null(), "{name} has no example");
        document.judge(&parameter["schema"], example).unwrap();
        let values = example
            .as_array()
            .cloned()
            .unwrap_or_else(|| vec![example.clone()]);
        query.extend(
            values
                .iter()
                .map(|value| format!("{name}={}", encode(value.as_str().unwrap()))),
        );
    }
    match query.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", query.join("&")),
    }
}

/// Bodies for a call: the document's examples, each with its content type.
fn bodies(operation: &Value) -> Vec<(String, Vec<u8>)> {
    let mut bodies = Vec::new();
    for (kind, content) in operation["requestBody"]["content"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let several = content["examples"].as_object().into_iter().flatten();
        let examples = several
            .map(|(_, example)| &example["value"])
            .chain(content.get("example"));
        for example in examples {
            let body = match example.as_str() {
                Some(text) => text.to_owned(),
                None => example.to_string(),
            };
            bodies.push((kind.replace('*', "plain"), body.into_bytes()));
        }
    }
    bodies
}

/// Something of everything in the channel of the examples.
fn filled() -> TestServer {
    let server = TestServer::start(OPEN);
    let (channel, body) = (
        encode(ODD),
        json!({"channel": ODD, "data": 1, "event": "e", "id": "i", "retain": true, "tags": {"a": "b"}}),
    );
    assert_eq!(server.backend().post_json("/v1/publish", &body).status, 200);
    server
        .backend()
        .post(&format!("/v1/publish?channel={channel}&retain=1"), b"\xff");
    server
}

#[test]
fn every_endpoint_is_described_and_no_other() {
    let server = TestServer::start(OPEN);
    let described: BTreeSet<_> = Document::served_by(&server)
        .operations()
        .into_iter()
        .map(|(path, method, _)| (path, method))
        .collect();
    let name = |method| match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Delete => "DELETE",
        other => panic!("{other:?}"),
    };
    let answered: BTreeSet<_> = Endpoint::calls()
        .map(|(path, method)| (path.to_owned(), name(method).to_owned()))
        .collect();
    assert_eq!(described, answered);
}

#[test]
fn every_code_of_a_problem_is_described_and_counted() {
    let server = TestServer::start(OPEN);
    let document = Document::served_by(&server);
    let described: BTreeSet<_> = document.schema("Code")["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|code| code.as_str().unwrap().to_owned())
        .collect();
    let counted: BTreeSet<_> = Refusal::ALL.iter().map(|(_, name)| (*name).to_owned()).collect();
    assert_eq!(described, counted);
}

#[test]
fn every_call_answers_as_described() {
    let mut made = 0;
    for (path, method, _) in Document::served_by(&filled()).operations() {
        let server = filled();
        let document = Document::served_by(&server);
        let operation = &document.0["paths"][&path][method.to_lowercase()];
        let target = target(&document, &path, operation);
        let call = format!("{method} {target}");
        made += 1;
        match path.as_str() {
            "/v1/sse" => {
                let mut stream = server.public().stream(&target);
                assert!(
                    operation["responses"]["200"]["content"][stream.head.header("content-type").unwrap()]
                        .is_object()
                );
                let (object, id) = stream.event().unwrap();
                assert!(
                    id.is_none() && object["type"] == "publication",
                    "the retained value"
                );
                document.judge(document.schema("Push"), &object).unwrap();
            }
            "/v1/stream" => {
                let mut stream = server.public().stream(&target);
                assert!(
                    operation["responses"]["200"]["content"][stream.head.header("content-type").unwrap()]
                        .is_object()
                );
                // The retained value comes first: the cursor would hide it.
                for kind in ["publication", "cursor"] {
                    let object = stream.object().unwrap();
                    assert_eq!(object["type"], kind);
                    document.judge(document.schema("Push"), &object).unwrap();
                }
            }
            "/v1/ws" => {
                assert!(operation["responses"]["101"].is_object());
                server.public().websocket(&target);
            }
            "/v1/publish" => {
                for (kind, body) in bodies(operation) {
                    // A body that is the payload alone needs its channel elsewhere.
                    let json_body = serde_json::from_slice::<Value>(&body)
                        .ok()
                        .filter(Value::is_object);
                    let target = match &json_body {
                        Some(request) => {
                            document
                                .judge(document.schema("PublishRequest"), request)
                                .unwrap();
                            path.clone()
                        }
                        None => format!("{path}?channel={}", encode(ODD)),
                    };
                    let answer = server
                        .backend()
                        .with(&format!("Content-Type: {kind}"))
                        .post(&target, &body);
                    assert_eq!(answer.status, 200, "{kind} {:?}", answer.text());
                    document.accepts(operation, &call, &answer);
                }
            }
            _ => {
                let bodies = match bodies(operation) {
                    none if none.is_empty() => vec![(String::new(), Vec::new())],
                    bodies => bodies,
                };
                for (kind, body) in bodies {
                    // What it names is a folder of a real machine.
                    let copies = tempfile::tempdir().unwrap();
                    let body = match path.as_str() {
                        "/v1/admin/backup" => {
                            json!({"to": copies.path().join("copy")}).to_string().into_bytes()
                        }
                        _ => body,
                    };
                    let mut client = server.backend();
                    if !kind.is_empty() {
                        client = client.with(&format!("Content-Type: {kind}"));
                    }
                    // The example names a folder of the reader's machine: this one must not be written to.
                    let copy = tempfile::tempdir().unwrap();
                    let body = match path.as_str() {
                        "/v1/admin/backup" => json!({"to": copy.path()}).to_string().into_bytes(),
                        _ => body,
                    };
                    let answer = client.call(&method, &target, &body);
                    assert_eq!(
                        answer.status,
                        200,
                        "{call}: {:?}",
                        String::from_utf8_lossy(&answer.body)
                    );
                    document.accepts(operation, &call, &answer);
                }
            }
        }
    }
    assert_eq!(made, Endpoint::calls().count());
}

#[test]
fn answers_of_other_shapes_are_described_too() {
    let server = filled();
    let document = Document::served_by(&server);
    let operation = |method: &str, path: &str| document.0["paths"][path][method].clone();
    let name = encode(ODD);
    let mut backend = server.backend();
    let mut first = backend.get("/v1/poll?channel=a%FF&channel=b&wait_ms=0&presence=join&session=me");
    let tag = first.header("etag").unwrap().to_owned();
    document.accepts(&operation("get", "/v1/poll"), "poll", &first);
    for _ in 0..2 {
        backend.post("/v1/publish?channel=a%FF&kind=text&idempotency_key=k", "1");
    }
    for (method, target) in [
        ("get", "/v1/channels?limit=1&values=1&retained=1".to_owned()),
        ("get", "/v1/channels?after=1".to_owned()),
        ("get", format!("/v1/retained?raw=1&channel={name}")),
        ("get", "/v1/retained?channel=none".to_owned()),
        ("get", "/v1/history?channel=none".to_owned()),
        ("get", "/v1/history?channel=a%FF&reverse=1&limit=1".to_owned()),
        ("get", "/v1/presence?channel=a%FF".to_owned()),
        ("get", "/v1/poll?channel=a%FF&cursor=earliest".to_owned()),
        ("get", "/v1/poll?channel=a%FF&cursor=x".to_owned()),
        ("get", "/v1/sse?info=1".to_owned()),
        ("get", "/v1/stream?channel=a&presence=x".to_owned()),
        ("get", "/v1/ws".to_owned()),
        ("get", format!("/v1/sse?channel={}", "x".repeat(9000))),
        ("get", format!("/v1/history?channel={}", "x".repeat(9000))),
        ("get", "/health/ready".to_owned()),
        ("delete", "/v1/retained?channel=none".to_owned()),
        ("delete", "/v1/history".to_owned()),
        (
            "post",
            "/v1/publish?channel=a%FF&kind=text&idempotency_key=k".to_owned(),
        ),
        ("post", "/v1/batch".to_owned()),
    ] {
        let answer = backend.call(&method.to_uppercase(), &target, b"");
        let path = target.split('?').next().unwrap();
        document.accepts(&operation(method, path), &target, &answer);
    }
    // Presence on a poll, a condition that holds, each result of a batch.
    first = server
        .backend()
        .with(&format!("If-None-Match: {tag}"))
        .get("/v1/poll?channel=quiet&wait_ms=0");
    assert_eq!(first.status, 304);
    document.accepts(&operation("get", "/v1/poll"), "304", &first);
    let batch =
        json!({"publications": [{"channel": "a", "data": 1}, {"channel": "a"}, {"channel": "", "data": 1}]});
    let answer = backend.post_json("/v1/batch", &batch);
    document.accepts(&operation("post", "/v1/batch"), "batch", &answer);
    let mut member = server
        .public()
        .stream("/v1/stream?channel=room&presence=join&info=1&session=me");
    for kind in ["cursor", "join"] {
        let object = member.object().unwrap();
        assert_eq!(object["type"], kind);
        document.judge(document.schema("Push"), &object).unwrap();
    }
    document.accepts(
        &operation("get", "/v1/presence"),
        "presence",
        &backend.get("/v1/presence?channel=room"),
    );
}

#[test]
fn what_is_not_allowed_is_described_for_every_call() {
    let server = TestServer::start(GUARDED);
    let document = Document::served_by(&server);
    let foreign = |client: Client| client.with("Origin: https://elsewhere.example");
    for (path, method, operation) in document.operations() {
        let target = target(&document, &path, &operation);
        let body = bodies(&operation)
            .into_iter()
            .next()
            .map(|(_, body)| body)
            .unwrap_or_default();
        // Whoever asks for a release, or renews, has to do only with what is their own.
        let needs_nothing = ["/v1/now", "/v1/release", "/v1/renew", "/openapi.json"];
        let is_open = operation["security"] == json!([]) || needs_nothing.contains(&&*path);
        let call = format!("{method} {target}");
        let answer = match path.as_str() {
            "/v1/ws" => server.public().try_websocket(&target).err().unwrap(),
            _ => server.public().call(&method, &target, &body),
        };
        if is_open || path == "/v1/batch" {
            assert_eq!(answer.status, 200, "{call}");
        } else {
            assert_eq!(answer.problem(401), "unauthorized", "{call}");
        }
        document.accepts(&operation, &call, &answer);
        let answer = server.public().call("PATCH", &path, b"");
        assert_eq!(answer.problem(405), "method_not_allowed", "{call}");
        document.accepts(&operation, &call, &answer);
        if method != "GET" {
            let answer = foreign(server.public()).call(&method, &target, &body);
            assert_eq!(answer.problem(403), "origin_refused", "{call}");
            document.accepts(&operation, &call, &answer);
        }
    }
}

#[test]
fn every_command_of_a_websocket_is_answered_as_described() {
    let server = filled();
    let document = Document::served_by(&server);
    let cursor = server.public().get("/v1/now").json()["cursor"].clone();
    let mapping = document.schema("Command")["discriminator"]["mapping"]
        .as_object()
        .unwrap()
        .clone();
    let mut socket = server.public().websocket("/v1/ws?session=me");
    document.judge(document.schema("Push"), &socket.object()).unwrap();
    for (kind, reference) in &mapping {
        let reference = json!({"$ref": reference});
        let examples = document.resolve(&reference)["examples"]
            .as_array()
            .unwrap_or_else(|| panic!("{kind} has no example"))
            .clone();
        for mut example in examples {
            document
                .judge(document.schema("Command"), &example)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(example["type"], **kind);
            if example.get("since").is_some() {
                example["since"] = cursor.clone();
            }
            let answer = socket.ask(&example);
            if kind == "authorize" {
                assert_eq!(answer["type"], "error", "the example's token is none");
                document.judge(document.schema("Error"), &answer).unwrap();
            } else {
                assert_ne!(answer["type"], "error", "{example}: {answer}");
                document
                    .judge(document.schema("CommandAnswer"), &answer)
                    .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
    let subscribe = json!({"type": "subscribe", "id": 99, "channel": "room", "presence": "join", "retained": false, "info": 1});
    document.judge(document.schema("Command"), &subscribe).unwrap();
    socket.send(&subscribe);
    document
        .judge(document.schema("CommandAnswer"), &socket.next_of("subscribed"))
        .unwrap();
}

#[test]
fn the_judge_here_finds_what_is_wrong() {
    let server = TestServer::start(OPEN);
    let document = Document::served_by(&server);
    let good = json!({"type": "publication", "channel": "a", "offset": 1, "time": 2, "data": {"any": 1}});
    let push = document.schema("Push");
    assert_eq!(document.judge(push, &good), Ok(()));
    for (member, value) in [
        ("type", json!("other")),
        ("offset", json!(0)),
        ("offset", json!("1")),
        ("kind", json!("json")),
        ("new", json!(1)),
        ("tags", json!({"a": 1})),
        ("cursor", json!("")),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        assert!(document.judge(push, &bad).is_err(), "{bad}");
    }
    let mut bad = good;
    bad.as_object_mut().unwrap().remove("time");
    assert!(document.judge(push, &bad).is_err());
}
