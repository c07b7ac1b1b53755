//! Watchers, and those who put what they watch.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Status;

use super::Case;
use super::cases::{self, Requests};
use super::connections::{self, Client};
use super::drive::Shared;
use super::report::Tally;

/// Opens the streams and begins the puts of the cases of many watchers.
///
/// A put is begun when the events of an earlier one have come to all who watch its key. So every server delivers the same for
/// each put, and none gets ahead of its own watchers or of what this tool can read.
///
/// # Errors
/// When the server cannot be reached or a watch cannot be made.
pub async fn spawn(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<Tally>,
) -> Result<(), Box<dyn std::error::Error>> {
    let options = &shared.options;
    let watchers = options.clients.max(1);
    let is_fan_out = options.case == Case::WatchFanout;
    let events_per_put = u32::try_from(if is_fan_out { watchers } else { 1 })?;
    let writers = options.writers.max(1);
    let window = Arc::new(Semaphore::new(writers * events_per_put as usize));
    let streams = options.streams.unwrap_or(watchers).clamp(1, watchers);
    for (number, client) in connections::clients(options, streams).await?.into_iter().enumerate() {
        let requests = Requests::new(options, 0);
        let keys = (number..watchers).step_by(streams).map(|key| if is_fan_out { 0 } else { key as u64 });
        let events = watch(client, keys.map(|key| requests.watch(key)).collect()).await?;
        tasks.spawn(count_events(shared.clone(), events, window.clone()));
    }
    for (number, client) in (1..).zip(connections::clients(options, writers).await?) {
        let requests = Requests::new(options, number);
        tasks.spawn(put_watched(shared.clone(), (client, requests), (window.clone(), events_per_put)));
    }
    Ok(())
}

/// A stream of watchers, past their `created`.
async fn watch(mut client: Client, creates: Vec<Bytes>) -> Result<tonic::Streaming<Bytes>, Status> {
    let watchers = creates.len();
    // It stays open behind the last of them.
    let messages = tokio_stream::iter(creates).chain(tokio_stream::pending());
    let mut events = client.stream(cases::WATCH, messages).await?;
    for _ in 0..watchers {
        events.message().await?.ok_or_else(|| Status::unknown("the watch ended at once"))?;
    }
    Ok(events)
}

async fn count_events(
    shared: Arc<Shared>,
    mut events: tonic::Streaming<Bytes>,
    window: Arc<Semaphore>,
) -> Tally {
    let mut tally = Tally::default();
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    loop {
        let message = tokio::select! {
            biased;
            () = &mut stopped => return tally,
            message = events.message() => message,
        };
        match message {
            Ok(Some(message)) => {
                let count = events_in(&message);
                shared.count_events(&mut tally, count as u64);
                window.add_permits(count);
            }
            Ok(None) => return tally,
            Err(status) => {
                tally.failed(&status);
                return tally;
            }
        }
    }
}

async fn put_watched(
    shared: Arc<Shared>,
    (mut client, mut requests): (Client, Requests),
    (window, events_per_put): (Arc<Semaphore>, u32),
) -> Tally {
    let mut tally = Tally::default();
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    loop {
        let places = tokio::select! {
            biased;
            () = &mut stopped => return tally,
            places = window.acquire_many(events_per_put) => places,
        };
        // The events give them back.
        places.expect("nobody closes the window").forget();
        let (path, message) = requests.next();
        let due = shared.due().await;
        match client.unary(path, message).await {
            Ok(_) if shared.options.case == Case::WatchKeys => shared.count(&mut tally, due.elapsed()),
            Ok(_) => {}
            Err(status) => {
                tally.failed(&status);
                window.add_permits(events_per_put as usize);
            }
        }
    }
}

/// Watches the key, puts it and waits for the event, one at a time.
pub async fn time_events(shared: Arc<Shared>, mut client: Client, requests: Requests) -> Tally {
    let mut tally = Tally::default();
    let mut events = match watch(client.clone(), vec![requests.watch(0)]).await {
        Ok(events) => events,
        Err(status) => {
            tally.failed(&status);
            return tally;
        }
    };
    while shared.runs() {
        let due = shared.due().await;
        if let Err(status) = client.unary(cases::PUT, requests.put(0)).await {
            tally.failed(&status);
            continue;
        }
        match events.message().await {
            Ok(Some(_)) => shared.count(&mut tally, due.elapsed()),
            Ok(None) => return tally,
            Err(status) => {
                tally.failed(&status);
                return tally;
            }
        }
    }
    tally
}

/// Events are field 11, length-delimited: counted without decoding them.
fn events_in(mut message: &[u8]) -> usize {
    let mut events = 0;
    while let Ok((tag, wire)) = prost::encoding::decode_key(&mut message) {
        events += usize::from(tag == 11);
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(wire, tag, &mut message, context).is_err() {
            break;
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use prost::Message;

    use super::*;
    use crate::wire::EncodedEvent;
    use crate::wire::etcdserverpb as pb;

    #[test]
    fn events_are_counted_without_decoding() {
        let events = vec![EncodedEvent::from_encoded(vec![8, 1].into()); 3];
        let response = pb::WatchResponse { watch_id: 7, events, ..Default::default() };
        assert_eq!(events_in(&response.encode_to_vec()), 3);
        assert_eq!(events_in(b"\xff\xff"), 0);
    }

    proptest! {
        #[test]
        fn counting_agrees_with_decoding_and_ends_on_any_bytes(
            bytes in proptest::collection::vec(prop_oneof![Just(0x5a_u8), 0u8..4, any::<u8>()], 0..60),
        ) {
            let counted = events_in(&bytes);
            prop_assert!(counted <= bytes.len());
            if let Ok(response) = pb::WatchResponse::decode(bytes.as_slice()) {
                prop_assert_eq!(counted, response.events.len());
            }
        }
    }
}
