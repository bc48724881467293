//! `daypass server` and `daypass dev`: the commands that run a server.

use std::path::PathBuf;

use clap::Args;

use daypass_contract::Secret;
use tokio::runtime::Runtime;

use super::Failure;
use super::context::Context;
use crate::config::{LogFormat, LogLevel, LogSettings};
use crate::server::{self, Dev, DevOptions, Server, StartError};

pub(super) const SERVER: &str = "\
Runs the server that a configuration describes, until it is told to stop (SIGTERM, SIGINT).

    $ daypass config check /etc/daypass/daypass.toml
    $ daypass server --config /etc/daypass/daypass.toml

SIGHUP reads the configuration again and applies what can be applied while it runs, all of it or nothing.

A new server is initialised once with `daypass operator init`, and unsealed after every start.";

pub(super) const DEV: &str = "\
Runs a server for development: initialised, unsealed, on loopback, with something to try for each job:
`secret/` (kv v2), `pki/` (a root CA and the role `workload` for X.509-SVIDs of dev.daypass.internal) and,
with --postgres, `database/` with the role `readonly`. It prints lines to paste. It is for the machine you
sit at: the key that seals the store lies beside it.

    $ daypass dev --root-token root
    $ daypass dev --data ./dev-data --listen 127.0.0.1:8300 --tls";

/// Arguments of `daypass server`.
#[derive(Args)]
pub struct ServerArgs {
    /// The configuration; conf.d/*.toml beside it is read too
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "/etc/daypass/daypass.toml"
    )]
    pub config: PathBuf,
}

/// Arguments of `daypass dev`.
#[derive(Args)]
pub struct DevArgs {
    /// Keep everything in this folder; without it, in a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen; loopback only, port 0 for a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8200")]
    pub listen: String,
    /// The root token; without it, a random one is made and printed
    #[arg(long, value_name = "TOKEN")]
    pub root_token: Option<String>,
    /// Serve TLS with a certificate made for the occasion; its authority is written beside the data
    #[arg(long)]
    pub tls: bool,
    /// Mount `database/` on this PostgreSQL server, with a role `readonly` to try
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
}

/// Runs the server that a configuration describes.
///
/// # Errors
/// [`Failure`] where it cannot start.
pub(super) fn server(arguments: ServerArgs) -> Result<(), Failure> {
    harden()?;
    let config = server::load_config(&arguments.config)
        .map_err(|errors| Failure::usage("use the configuration", errors.to_string()))?;
    server::init_log(config.log);
    runtime()?.block_on(async {
        let stop = server::stop_on_signals().map_err(start)?;
        let mut server = Server::start(config).await.map_err(start)?;
        server.reload_from(arguments.config).map_err(start)?;
        for address in server.addresses() {
            tracing::info!(%address, "listening");
        }
        server.run(stop).await;
        Ok(())
    })
}

/// Runs a server for development.
///
/// # Errors
/// [`Failure`] where it cannot start.
pub(super) fn dev(arguments: DevArgs, context: &mut Context<'_, '_>) -> Result<(), Failure> {
    harden()?;
    server::init_log(LogSettings {
        format: LogFormat::Text,
        level: LogLevel::Warn,
    });
    runtime()?.block_on(async {
        let stop = server::stop_on_signals().map_err(start)?;
        let dev = server::start_dev(DevOptions {
            data: arguments.data,
            listen: arguments.listen,
            root_token: arguments.root_token.map(Secret::new),
            tls: arguments.tls,
            postgres: arguments.postgres.map(Secret::new),
        })
        .await
        .map_err(start)?;
        context.print(&welcome(&dev))?;
        dev.run(stop).await;
        Ok(())
    })
}

fn harden() -> Result<(), Failure> {
    crate::memory::harden().map_err(|error| {
        Failure::usage(
            "start",
            format!("the system does not let this process protect its memory: {error}"),
        )
    })
}

fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage("start", error.to_string()))
}

fn start(error: StartError) -> Failure {
    Failure::usage("start the server", error.to_string())
}

/// What there is and how to try it; every line can be pasted as it is.
fn welcome(dev: &Dev) -> String {
    use std::fmt::Write as _;
    let token = dev.token.expose_str().unwrap_or_default();
    let address = &dev.address;
    let mut text = format!(
        "Daypass {} for development: unsealed, on loopback, in {}\n\n  address  {address}\n  token    {token}\n",
        crate::VERSION,
        dev.data.display(),
    );
    let mut curl = "curl".to_owned();
    let mut exports = format!("  export DAYPASS_ADDR={address}\n  export DAYPASS_TOKEN={token}\n");
    if let Some(ca) = &dev.ca {
        let _ = writeln!(exports, "  export DAYPASS_CACERT={}", ca.display());
        curl = format!("curl --cacert {}", ca.display());
    }
    let header = format!("-sS -H \"X-Vault-Token: {token}\"");
    let _ = write!(
        text,
        "\nIn another terminal:\n\n{exports}\n\
         A pipeline reads a secret:\n\n  daypass kv get secret/hello\n  {curl} {header} {address}/v1/secret/data/hello\n\n\
         A workload obtains an mTLS certificate (an X.509-SVID):\n\n  \
         daypass issue pki/workload uri_sans=spiffe://{domain}/web\n  \
         {curl} {header} -d '{{\"uri_sans\":\"spiffe://{domain}/web\"}}' {address}/v1/pki/issue/workload\n\n",
        domain = server::TRUST_DOMAIN,
    );
    if dev.database {
        let _ = write!(
            text,
            "A client receives a database user:\n\n  daypass issue database/readonly\n  \
             {curl} {header} {address}/v1/database/creds/readonly\n\n"
        );
    } else {
        text.push_str("For database users, start it with --postgres postgresql://USER:PASSWORD@HOST/DATABASE\n\n");
    }
    text.push_str("Ctrl-C stops it");
    text.push_str(if dev.keeps_data {
        ".\n"
    } else {
        " and removes its data (--data DIR keeps it).\n"
    });
    text
}
