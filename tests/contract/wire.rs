//! The messages, enums and services of `proto/` against wire.json, both ways; and the two messages that the
//! library writes by hand against `proto/`.

use std::collections::BTreeSet;
use std::fmt::Write;

use decklog::wire::{self, Event, KeyValue};
use prost::Message;
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind};
use serde_json::Value;

use crate::tables::{assert_same, table_or_skip, text};

/// Packages that are not etcd's: what our log holds, what our members say to each other, and the health service that
/// every gRPC server has.
const OTHER_PACKAGES: [&str; 3] = ["decklog", "decklogpeer", "grpc.health.v1"];

#[test]
fn the_wire_is_etcds() {
    let Some(table) = table_or_skip("the_wire_is_etcds", "wire.json") else { return };
    let theirs = theirs(&table);
    assert!(theirs.len() > 400, "only {} lines: the table has another form than expected", theirs.len());
    assert_same("messages, enums and services", &theirs, &ours(&descriptors()));
}

/// They are not made from `proto/`: each field is set alone, encoded from the descriptor, and must survive them.
#[test]
fn messages_written_by_hand_are_those_of_the_descriptors() {
    let pool = descriptors();
    for (name, message) in one_field_each(&pool, "mvccpb.KeyValue") {
        let through = KeyValue::decode(message.as_slice()).map(|decoded| decoded.encode_to_vec());
        assert_eq!(through.as_ref(), Ok(&message), "mvccpb.KeyValue.{name}");
    }
    for (name, message) in one_field_each(&pool, "mvccpb.Event") {
        let through = Event::decode(message.as_slice()).map(|decoded| decoded.encode_to_vec());
        assert_eq!(through.as_ref(), Ok(&message), "mvccpb.Event.{name}");
    }
    let types = pool.get_enum_by_name("mvccpb.Event.EventType").expect("proto/kv.proto has it");
    for value in types.values() {
        let ours = wire::EventType::try_from(value.number()).map(|ours| format!("{ours:?}").to_uppercase());
        assert_eq!(ours.as_deref(), Ok(value.name()));
    }
}

fn descriptors() -> DescriptorPool {
    DescriptorPool::decode(wire::DESCRIPTORS).expect("the build wrote it")
}

/// One line for everything that wire.json says.
fn theirs(table: &Value) -> BTreeSet<String> {
    let object = |value: &Value| value.as_object().expect("a map by name").clone();
    let mut lines = BTreeSet::new();
    for (message, body) in object(&table["messages"]) {
        lines.insert(format!("message {message}"));
        for field in body["fields"].as_array().expect("a list of fields") {
            let oneof = field["oneof"].as_str().unwrap_or("none");
            let (number, kind, name) = (&field["number"], text(field, "type"), text(field, "name"));
            lines.insert(format!("field {message}.{name}: {kind} = {number}, oneof {oneof}"));
        }
    }
    for (name, values) in object(&table["enums"]) {
        lines.extend(object(&values).iter().map(|(value, number)| format!("enum {name}.{value} = {number}")));
    }
    for (service, methods) in object(&table["services"]) {
        for (method, body) in object(&methods) {
            let (request, response) = (text(&body, "request"), text(&body, "response"));
            lines.insert(format!("rpc {service}/{method}: {request} -> {response}"));
        }
    }
    lines
}

/// The same lines for `proto/`.
fn ours(pool: &DescriptorPool) -> BTreeSet<String> {
    let is_etcds = |package: &str| !OTHER_PACKAGES.contains(&package);
    let mut lines = BTreeSet::new();
    for message in pool.all_messages().filter(|message| is_etcds(message.package_name())) {
        lines.insert(format!("message {}", message.full_name()));
        lines.extend(message.fields().map(|field| field_line(&field)));
    }
    for kind in pool.all_enums().filter(|kind| is_etcds(kind.package_name())) {
        let name = kind.full_name();
        lines.extend(kind.values().map(|value| format!("enum {name}.{} = {}", value.name(), value.number())));
    }
    for service in pool.services().filter(|service| is_etcds(service.package_name())) {
        for method in service.methods() {
            let stream = |streams| if streams { "stream " } else { "" };
            lines.insert(format!(
                "rpc {}/{}: {}{} -> {}{}",
                service.full_name(),
                method.name(),
                stream(method.is_client_streaming()),
                method.input().full_name(),
                stream(method.is_server_streaming()),
                method.output().full_name(),
            ));
        }
    }
    lines
}

fn field_line(field: &FieldDescriptor) -> String {
    let label = match field.cardinality() {
        Cardinality::Repeated => "repeated ",
        Cardinality::Optional => "",
        Cardinality::Required => "required ",
    };
    let oneof = field.containing_oneof().map_or("none".to_owned(), |oneof| oneof.name().to_owned());
    let mut line = format!("field {}: {label}", field.full_name());
    write!(line, "{:?} = {}, oneof {oneof}", field.kind(), field.number())
        .expect("a string takes everything");
    line
}

/// The message once for each of its fields, encoded with that field alone.
fn one_field_each(pool: &DescriptorPool, name: &str) -> Vec<(String, Vec<u8>)> {
    let descriptor = pool.get_message_by_name(name).unwrap_or_else(|| panic!("proto/ has {name}"));
    let with = |field: FieldDescriptor| {
        let mut message = DynamicMessage::new(descriptor.clone());
        message.set_field(&field, sample(&field));
        (field.name().to_owned(), message.encode_to_vec())
    };
    descriptor.fields().map(with).collect()
}

/// A value other than the default.
fn sample(field: &FieldDescriptor) -> prost_reflect::Value {
    match field.kind() {
        Kind::Int64 => prost_reflect::Value::I64(-7),
        Kind::Bytes => prost_reflect::Value::Bytes(vec![0, 255].into()),
        Kind::Enum(_) => prost_reflect::Value::EnumNumber(1),
        Kind::Message(inner) => {
            let mut message = DynamicMessage::new(inner.clone());
            let first = inner.fields().next().expect("a message with fields");
            message.set_field(&first, sample(&first));
            prost_reflect::Value::Message(message)
        }
        other => panic!("{} has a kind that no test value stands for: {other:?}", field.full_name()),
    }
}
