//! The experiment that chose the store's engine and form, kept so that it can be repeated (docs/storage.md has its
//! figures): the same workload over Decklog's own store, both lines of sled, and redb.
//!
//! `cargo run --release --manifest-path benches/engines/Cargo.toml -- --quick` takes seconds; without `--quick` it
//! takes some 40 minutes and 20 GB of disk. Every run is a process of its own, so that CPU and memory are its own.

mod candidate;
mod crashes;
mod life;
mod measure;
mod plan;
mod process;
mod report;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use candidate::Failure;
use plan::Options;

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "engines", about = "Compares the engines that could stand under the store")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What the program starts itself with.
#[derive(Subcommand)]
enum Child {
    #[command(hide = true)]
    Measure(measure::Arguments),
    #[command(hide = true)]
    Life(life::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.child {
        Some(Child::Measure(child)) => measure::run(child),
        Some(Child::Life(child)) => life::run(child),
        None => run(arguments.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<(), Failure> {
    if options.quick {
        options.make_quick();
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let directory = options.directory.clone().unwrap_or_else(|| {
        let name = format!("decklog-engines-{}", std::process::id());
        std::env::temp_dir().join(name)
    });
    std::fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let results = plan::run_all(&options, seed, &directory);
    remove(directory);
    let results = results?;
    print!("{}", report::table(&options, seed, &results));
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report::json(&options, seed, &results)))?;
    }
    Ok(())
}

fn remove(directory: PathBuf) {
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        eprintln!("{} stays: {error}", directory.display());
    }
}
