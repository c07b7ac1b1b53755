//! Compiles `proto/` into messages and services without protoc.

use std::path::PathBuf;

const PROTO_FILES: [&str; 9] = [
    "proto/rpc.proto",
    "proto/kv.proto",
    "proto/auth.proto",
    "proto/membership.proto",
    "proto/v3lock.proto",
    "proto/v3election.proto",
    "proto/health.proto",
    "proto/log.proto",
    "proto/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(PROTO_FILES)?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let files = compiler.file_descriptor_set();
    std::fs::write(out_dir.join("rpcs.rs"), rpcs(&files))?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::wire::MessageCodec")
        // Stored pairs and events travel as their encoded bytes (src/wire.rs).
        .extern_path(".mvccpb.KeyValue", "crate::wire::EncodedKeyValue")
        .extern_path(".mvccpb.Event", "crate::wire::EncodedEvent")
        .compile_fds(files)?;
    Ok(())
}

/// Every RPC for clients as (service, method, client streams, server streams), for what is counted per RPC.
fn rpcs(files: &protox::prost_reflect::prost_types::FileDescriptorSet) -> String {
    let mut table = String::from("&[\n");
    for file in files.file.iter().filter(|file| file.package() != "decklogpeer") {
        for service in &file.service {
            for method in &service.method {
                table += &format!(
                    "    (\"{}.{}\", \"{}\", {}, {}),\n",
                    file.package(),
                    service.name(),
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming()
                );
            }
        }
    }
    table + "]\n"
}
