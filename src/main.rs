//! The binary: server, load tool, probe or inspection. Parses, logs, runs, exits.

use std::process::ExitCode;

use decklog::config::{self, Invocation};
use decklog::{bench, datadir, health, inspect, logging, process, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("bench") => return bench::run(args[1..].to_vec()),
        Some("health") => return health::run(args[1..].to_vec()),
        Some("inspect") => return inspect::run(args[1..].to_vec()),
        _ => {}
    }
    let env: Vec<_> = std::env::vars_os().collect();
    match config::load(args, &env, &datadir::is_initialised) {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Serve(config)) => {
            let log_is_elsewhere = config.log.is_kept_elsewhere();
            match serve(*config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // On stderr one line tells it.
                    if log_is_elsewhere {
                        tracing::error!(%error, "decklog cannot go on");
                    }
                    fail(&*error)
                }
            }
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("decklog: {error}");
    ExitCode::FAILURE
}

fn serve(config: config::Config) -> Result<(), Box<dyn std::error::Error>> {
    logging::begin(&config.log)?;
    process::abort_on_panic();
    process::use_small_pages();
    let max_open_files = process::use_all_files();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let notify_socket = config.notify_socket.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = process::StopSignals::listen()?;
        let mut running = tokio::select! {
            started = server::start(config, max_open_files) => started?,
            signal = signals.wait() => {
                tracing::info!(signal, "stopping before it is ready");
                return Ok(());
            }
        };
        tracing::info!(addresses = ?running.addresses(), "ready to serve client requests");
        process::notify_ready(notify_socket.as_deref());
        let removed = running.removed();
        tokio::select! {
            signal = signals.wait() => tracing::info!(signal, "stopping"),
            () = removed => tracing::error!("this member has been removed from the cluster; stopping"),
            failed = running.failed() => return Err(failed.into()),
        }
        running.stop().await?;
        tracing::info!("stopped");
        Ok(())
    })
}
