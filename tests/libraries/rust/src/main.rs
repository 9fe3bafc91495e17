//! reqwest-eventsource listens to the address given and prints what it hands out, a JSON object a line.

use futures_util::StreamExt;
use reqwest_eventsource::{Error, Event, EventSource};
use serde_json::json;

fn main() {
    let url = std::env::args().nth(1).expect("the address to listen to");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(listen(&url));
}

async fn listen(url: &str) {
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        match event {
            Ok(Event::Message(event)) => {
                println!(
                    "{}",
                    json!({"event": event.event, "data": event.data, "id": event.id})
                );
            }
            // It has given up: it comes back only after errors of the network.
            Err(Error::InvalidStatusCode(status, _)) => println!("{}", json!({"ended": status.as_str()})),
            _ => {}
        }
    }
}
