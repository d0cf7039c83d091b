//! cortend: flags, then configuration, then the parts, then serving until a signal, then draining.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use daemon::config::{self, Config};
use daemon::error::{Context, Result};
use daemon::services::version::{REVISION, VERSION};
use daemon::takeover::{self, Source};
use daemon::{app, cgroup, listen, notify, plugin};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long calls that are being answered are waited for at the end.
const DRAIN: Duration = Duration::from_secs(3);

/// A container daemon that serves containerd's API.
#[derive(Debug, Parser)]
#[command(name = "cortend", version = VERSION)]
struct Flags {
    /// Path to the configuration file [default: /etc/corten/config.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the gRPC socket [default: /run/corten/cortend.sock]
    #[arg(short, long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// Directory for what outlives a reboot [default: /var/lib/corten]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory for what does not [default: /run/corten]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// trace, debug, info, warn or error [default: info]
    #[arg(short, long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print configuration
    Config {
        #[command(subcommand)]
        what: Print,
    },
    /// Take over what a containerd on this machine has: images, content, snapshots, containers
    ///
    /// containerd's own files are read and never written: it can go on with them afterwards. Both daemons have to be
    /// stopped, and no task may run.
    Takeover {
        /// Say what would be taken over and what is in the way, and change nothing; containerd may run
        #[arg(long)]
        dry_run: bool,
        /// containerd's root
        #[arg(long, value_name = "DIR", default_value = "/var/lib/containerd")]
        from: PathBuf,
        /// containerd's state
        #[arg(long, value_name = "DIR", default_value = "/run/containerd")]
        from_state: PathBuf,
    },
    /// Serve a snapshotter alone, as a proxy plugin of a containerd
    Snapshotter {
        /// Which snapshotter
        #[arg(long, value_enum, default_value = "overlayfs")]
        kind: plugin::Kind,
        /// Directory of its snapshots
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// Address of its socket
        #[arg(long, value_name = "SOCKET")]
        address: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Print {
    /// What holds without a configuration file
    Default,
    /// What holds with the configuration file and these flags
    Dump,
    /// The configuration file in the newest form
    Migrate,
}

fn main() -> ExitCode {
    match start(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cortend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &Flags) -> Result<()> {
    match &flags.command {
        Some(Command::Config { what }) => return print(flags, *what),
        Some(Command::Takeover {
            dry_run,
            from,
            from_state,
        }) => {
            log(flags.log_level.as_deref().unwrap_or("warn"), false);
            let config = configure(flags, &mut Vec::new())?;
            let source = Source {
                root: from.clone(),
                state: from_state.clone(),
            };
            return match dry_run {
                true => takeover::rehearse(&config, &source),
                false => takeover::run(&config, &source),
            };
        }
        Some(Command::Snapshotter {
            kind,
            root,
            address,
        }) => {
            let level = flags.log_level.clone();
            log(level.as_deref().unwrap_or("info"), false);
            sys::memory::keep_little();
            let serving = async {
                let mut signals = Signals::new()?;
                plugin::serve(*kind, root, address.clone(), async move {
                    signals.next().await;
                })
                .await
            };
            return runtime()?.block_on(serving);
        }
        None => {}
    }
    let mut unknown = Vec::new();
    let config = configure(flags, &mut unknown)?;
    log(&config.log_level, config.log_json);
    for key in &config.unheeded {
        tracing::warn!(key, "configuration key has no effect");
    }
    for key in unknown {
        tracing::warn!(key, "unknown configuration key");
    }
    if let Some(score) = config.oom_score
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        tracing::error!(score, "set the OOM score: {error}");
    }
    if let Some(path) = &config.cgroup {
        cgroup::join(path)?;
    }
    sys::memory::keep_little();
    runtime()?.block_on(serve(&config))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cpus| cpus.get().min(8)))
        .enable_all()
        .build()
        .context(|| "start the async runtime")
}

/// Prints configuration.
fn print(flags: &Flags, what: Print) -> Result<()> {
    let file = flags.config.clone();
    let text = match what {
        Print::Default => config::print::dump(&Config::default())?,
        Print::Dump => config::print::dump(&configure(flags, &mut Vec::new())?)?,
        Print::Migrate => {
            let file = file.unwrap_or_else(|| config::DEFAULT_FILE.into());
            config::print::migrate(config::import::load(&file)?)?
        }
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context(|| "print the configuration")
}

/// Returns the settings: those of the file, and over them those of the command line.
fn configure(flags: &Flags, unknown: &mut Vec<String>) -> Result<Config> {
    let default = PathBuf::from(config::DEFAULT_FILE);
    let mut config = match &flags.config {
        Some(path) => Config::load(path, unknown)?,
        None if default.exists() => Config::load(&default, unknown)?,
        None => Config::default(),
    };
    if let Some(root) = &flags.root {
        config.root.clone_from(root);
    }
    if let Some(state) = &flags.state {
        config.state.clone_from(state);
    }
    if let Some(address) = &flags.address {
        config.set_address(address);
    }
    if let Some(level) = &flags.log_level {
        config.log_level.clone_from(level);
    }
    Ok(config)
}

fn log(level: &str, json: bool) {
    // What the HTTP layers have to say is of use to nobody but their authors.
    let directives = format!("{level},h2=info,hyper=info,tower=info");
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        lines.json().init();
    } else {
        lines.with_ansi(false).init();
    }
}

/// The signals that end the program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them from now on.
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context(|| "handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context(|| "handle SIGINT")?,
        })
    }

    /// Waits for one of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("terminated"),
            _ = self.interrupt.recv() => tracing::info!("interrupted"),
        }
    }
}

async fn serve(config: &Config) -> Result<()> {
    let mut signals = Signals::new()?;
    let app = app::build(config)?;
    app.start(config).await?;
    let listener = listen::bind(&config.grpc)?;
    tracing::info!(address = ?config.grpc.path, version = VERSION, revision = REVISION, "serving");
    notify::send(std::env::var_os(notify::SOCKET_VARIABLE), "READY=1")?;

    let (drain, draining) = tokio::sync::oneshot::channel();
    let serving = app.serve(listener, async {
        let _ = draining.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = signals.next() => {}
    }
    notify::send(std::env::var_os(notify::SOCKET_VARIABLE), "STOPPING=1")?;
    let _ = drain.send(());
    // Subscribers of events stay until they are cut off.
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}
