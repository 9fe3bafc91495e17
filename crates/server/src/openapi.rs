//! The description of the HTTP API for machines, as served at `/openapi.json`.

/// OpenAPI 3.1, JSON. It says what docs/protocol.md says.
pub const DOCUMENT: &[u8] = include_bytes!("../openapi.json");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

    fn document() -> Value {
        serde_json::from_slice(DOCUMENT).expect("valid JSON")
    }

    /// The protocol's part under a heading.
    fn section(heading: &str) -> &'static str {
        let after = PROTOCOL
            .split(&format!("## {heading}\n"))
            .nth(1)
            .expect("such a heading");
        after.split("\n## ").next().expect("a first part")
    }

    /// The words in backquotes of the first cells of a section's table.
    fn first_cells(section: &'static str) -> Vec<&'static str> {
        let cells = section.lines().filter(|line| line.starts_with("| `"));
        let cells = cells.filter_map(|line| line.split('|').nth(1));
        cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect()
    }

    /// Calls `visit` for each object of the document.
    fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                visit(object);
                object.values().for_each(|value| walk(value, visit));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
            _ => {}
        }
    }

    #[test]
    fn it_is_openapi_3_1_of_this_version() {
        assert_eq!(document()["openapi"], "3.1.0");
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_call_of_the_protocol_is_described_and_no_other() {
        let paths = document()["paths"].clone();
        let api = first_cells(section("HTTP API"));
        let transports = section("Transports")
            .split_once(" (WebSocket")
            .expect("the list of transports")
            .0;
        let calls = api
            .into_iter()
            .chain(transports.split('`').filter(|word| word.starts_with("GET ")));
        let mut wanted: Vec<(String, String)> = calls
            .map(|call| {
                let (method, target) = call.split_once(' ').expect("a method and a path");
                (
                    target.split('?').next().unwrap().to_owned(),
                    method.to_lowercase(),
                )
            })
            .collect();
        wanted.sort();
        let mut described: Vec<(String, String)> = Vec::new();
        for (path, item) in paths.as_object().unwrap() {
            described.extend(
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(|method| (path.clone(), method.clone())),
            );
        }
        described.sort();
        assert_eq!(described, wanted);
        assert_eq!(wanted.len(), 24, "the tables were found");
    }

    #[test]
    fn every_reference_resolves() {
        let document = document();
        let mut references = 0;
        let mut check = |reference: &Value| {
            let pointer = reference
                .as_str()
                .unwrap()
                .strip_prefix('#')
                .expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
            references += 1;
        };
        walk(&document, &mut |object| {
            object.get("$ref").into_iter().for_each(&mut check);
            if let Some(mapping) = object.get("mapping") {
                mapping.as_object().unwrap().values().for_each(&mut check);
            }
        });
        assert!(references > 100);
    }

    #[test]
    fn nothing_is_described_that_is_never_used() {
        let document = document();
        let text = std::str::from_utf8(DOCUMENT).unwrap();
        for (group, parts) in document["components"].as_object().unwrap() {
            for name in parts
                .as_object()
                .unwrap()
                .keys()
                .filter(|_| group != "securitySchemes")
            {
                assert!(
                    text.contains(&format!("\"#/components/{group}/{name}\"")),
                    "{group}/{name}"
                );
            }
        }
    }

    #[test]
    fn every_parameter_of_the_transports_is_described() {
        let document = document();
        let names: Vec<&Value> = document["components"]["parameters"]
            .as_object()
            .unwrap()
            .values()
            .map(|p| &p["name"])
            .collect();
        let wanted = first_cells(section("Transports"));
        assert_eq!(wanted.len(), 17);
        for name in wanted {
            assert!(names.iter().any(|known| *known == name), "{name}");
        }
    }

    #[test]
    fn every_push_command_and_error_is_described() {
        let schemas = &document()["components"]["schemas"];
        let keys = |schema: &str| -> Vec<String> {
            schemas[schema]["discriminator"]["mapping"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        let sorted = |mut words: Vec<&str>| -> Vec<String> {
            words.sort_unstable();
            words.into_iter().map(str::to_owned).collect()
        };
        assert_eq!(keys("Push"), sorted(first_cells(section("What you receive"))));
        assert_eq!(
            keys("Command"),
            sorted(first_cells(section("WebSocket commands")))
        );
        let codes: Vec<&str> = schemas["Code"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(codes, first_cells(section("Errors")));
    }
}
