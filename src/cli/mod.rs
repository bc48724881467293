//! The commands. Those that talk to a server use only [`crate::client`], so that nothing here can do what
//! the API would not allow.
//!
//! **Invariant:** a secret need not be an argument, which every process of the machine could read: it comes from
//! a prompt, standard input or a file. What is a secret for certain is refused as an argument, or warned of where
//! other clients of the API take it. Output goes through `output`, errors through [`Failure`], both in one
//! place; what a command sends or prints is testable without a terminal.

mod audit;
mod auth;
mod context;
mod failure;
mod fields;
mod generate_root;
mod generic;
mod issue;
mod kv;
mod kv_metadata;
mod lease;
mod local;
mod login;
mod mount;
mod operator;
mod output;
mod policy;
mod policy_file;
mod rekey;
pub mod serve;
#[cfg(test)]
mod tests;
mod token;
mod wrap;

use std::ffi::OsString;
use std::io::{IsTerminal as _, stderr, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::context::{Context, Streams};
pub use self::failure::{Code, Failure};
use self::output::Format;
use crate::client::{Environment, Overrides};

const ABOUT: &str = "\
Headless identity infrastructure: decides, issues, rotates and revokes short-lived credentials for software.

Start a throw-away server, and fetch something from it:

    $ daypass dev --root-token root &
    $ export DAYPASS_ADDR=http://127.0.0.1:8200
    $ echo root | daypass login
    $ daypass kv put secret/app password=@password.txt
    $ daypass kv get --field password secret/app";

const ENVIRONMENT: &str = "\
Environment:
  DAYPASS_ADDR, VAULT_ADDR      the server: https://host:8200 or unix:///path; default https://127.0.0.1:8200
  DAYPASS_TOKEN, VAULT_TOKEN    the token; without it, the token file
  DAYPASS_TOKEN_FILE            where `daypass login` leaves the token; default ~/.daypass/token
  DAYPASS_CACERT, VAULT_CACERT  the authorities to trust instead of the system's, in PEM
  DAYPASS_CLIENT_CERT, DAYPASS_CLIENT_KEY, VAULT_CLIENT_CERT, VAULT_CLIENT_KEY
                                your own certificate and its key, in PEM

`daypass help exit-codes` says what a script can rely on.";

/// What the process's exit code means; part of the interface.
const EXIT_CODES: &str = "\
Every command ends with one of:

0  Done.
1  Nothing was changed: the arguments, a file or the configuration cannot be used.
2  The server said no or failed, or its answer cannot be used. The same again will most likely end the same way.
   Also `daypass status` of a sealed server, and `daypass audit verify` of a log that is not whole.
3  The server cannot answer now: not reachable, sealed, or overloaded. Try again later.";

/// The command line.
#[derive(Parser)]
#[command(
    name = "daypass",
    version,
    about = "Headless identity infrastructure: issues short-lived credentials for software",
    long_about = ABOUT,
    after_long_help = ENVIRONMENT,
    arg_required_else_help = true,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The server: https://host:8200 or unix:///path [env: DAYPASS_ADDR]
    #[arg(long, global = true, value_name = "URL")]
    address: Option<String>,
    /// The file that holds the token [env: DAYPASS_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authorities to trust instead of the system's, in PEM [env: DAYPASS_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Your own certificate, in PEM, where the server or `login --method cert` asks for one [env: DAYPASS_CLIENT_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM; left out, it stands in the same file [env: DAYPASS_CLIENT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// How to print an answer
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, hide_possible_values = false)]
    format: Format,
    /// Print this field's value and nothing else; without a line break when not on a terminal
    #[arg(long, global = true, value_name = "NAME")]
    field: Option<String>,
    /// The server keeps the answer for so long, and answers a token for `daypass unwrap`, which opens it once
    #[arg(long, global = true, value_name = "DURATION")]
    wrap_ttl: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    #[command(long_about = serve::SERVER)]
    Server(serve::ServerArgs),
    /// Run a server for development: unsealed, in a temporary folder or one of yours, ready to use
    #[command(long_about = serve::DEV)]
    Dev(serve::DevArgs),
    /// Show whether the server is initialised and unsealed (exit code 2 when sealed)
    #[command(
        after_long_help = "Example:\n\n    $ daypass status\n    $ daypass status --field sealed"
    )]
    Status,
    /// Initialise, unseal and look after a server
    #[command(subcommand)]
    Operator(operator::Operator),
    /// Log in, by a token or an auth method, and keep the token for later commands
    #[command(long_about = login::ABOUT)]
    Login(login::Login),
    /// Mount the ways to log in and change them
    #[command(subcommand)]
    Auth(auth::Auth),
    /// Create, inspect, renew and revoke tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Read what stands at a path
    #[command(long_about = generic::READ)]
    Read(generic::Read),
    /// Write fields to a path
    #[command(long_about = generic::WRITE)]
    Write(generic::Write),
    /// Change some fields of what stands at a path
    #[command(long_about = generic::PATCH)]
    Patch(generic::Patch),
    /// List the names below a path
    #[command(long_about = generic::LIST)]
    List(generic::List),
    /// Delete what stands at a path
    #[command(long_about = generic::DELETE)]
    Delete(generic::Delete),
    /// Keep and fetch secrets, with or without versions
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Issue a credential or a certificate from a role
    #[command(long_about = issue::ABOUT)]
    Issue(issue::Issue),
    /// Open a wrapped answer, which can be done once
    #[command(long_about = wrap::UNWRAP)]
    Unwrap(wrap::Unwrap),
    /// Look at a wrapped answer without opening it, or move it to another token
    #[command(subcommand)]
    Wrap(wrap::Wrap),
    /// Show, renew and revoke leases
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Show and change policies, and check them before that
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Mount backends and change mounts
    #[command(subcommand, visible_aliases = ["secrets", "mounts"])]
    Mount(mount::Mount),
    /// Prove that an audit log on this machine is whole, read it, and let devices follow a server's
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Look at a configuration without a server
    #[command(subcommand)]
    Config(local::Config),
    /// Print a script that completes commands in a shell
    #[command(long_about = local::COMPLETIONS)]
    Completions(local::Completions),
    /// Print the version
    #[command(after_long_help = "Example:\n\n    $ daypass version")]
    Version,
    /// What the exit codes mean
    #[command(name = "exit-codes", long_about = EXIT_CODES, help_template = "{about}\n", hide = true)]
    ExitCodes,
}

impl Command {
    /// Whether the server's answer is what the command gives, so that it can be wrapped.
    fn wraps(&self) -> bool {
        matches!(
            self,
            Self::Read(_)
                | Self::Write(_)
                | Self::Patch(_)
                | Self::Issue(_)
                | Self::Login(_)
                | Self::Kv(kv::Kv::Get(_))
                | Self::Token(token::Token::Create(_))
        )
    }
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let streams = Streams {
        out: &mut stdout().lock(),
        err: &mut stderr(),
        input: &mut stdin(),
        out_is_terminal: stdout().is_terminal(),
        input_is_terminal: stdin().is_terminal(),
    };
    ExitCode::from(execute(std::env::args_os(), streams, &|name| {
        std::env::var(name).ok()
    }))
}

/// Runs one command line and answers its exit code.
fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    mut streams: Streams<'_>,
    environment: &Environment<'_>,
) -> u8 {
    let outcome = match Cli::try_parse_from(arguments) {
        Ok(cli) => {
            let mut context = Context {
                streams: &mut streams,
                environment,
                overrides: Overrides {
                    address: cli.global.address,
                    token_file: cli.global.token_file,
                    ca_cert: cli.global.ca_cert,
                    client_cert: cli.global.client_cert,
                    client_key: cli.global.client_key,
                },
                format: cli.global.format,
                field: cli.global.field,
                wrap_ttl: cli.global.wrap_ttl,
            };
            dispatch(cli.command, &mut context)
        }
        Err(error) => {
            // Help and version are answers; anything else is a misuse, which clap explains itself.
            let text = error.render().to_string();
            return if error.use_stderr() {
                let _ = streams.err.write_all(text.as_bytes());
                Code::Usage as u8
            } else {
                let _ = streams.out.write_all(text.as_bytes());
                0
            };
        }
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            // Where even this cannot be written, the exit code still says it.
            let _ = write!(streams.err, "{failure}");
            failure.code()
        }
    }
}

fn dispatch(command: Command, context: &mut Context<'_, '_>) -> Result<(), Failure> {
    if context.wrap_ttl.is_some() && !command.wraps() {
        return Err(Failure::usage(
            "wrap the answer of this command",
            "it answers nothing to hand on",
        )
        .hint("read, write, patch, kv get, issue, login and token create take --wrap-ttl"));
    }
    match command {
        Command::Server(arguments) => return serve::server(arguments),
        Command::Dev(arguments) => return serve::dev(arguments, context),
        Command::Config(config) => return config.run(context),
        Command::Completions(completions) => return completions.run(context),
        Command::Version => return local::version(context),
        Command::ExitCodes => return context.print(&format!("{EXIT_CODES}\n")),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage("start", error.to_string()))?;
    runtime.block_on(remote(command, context))
}

/// The commands that ask a server.
async fn remote(command: Command, context: &mut Context<'_, '_>) -> Result<(), Failure> {
    match command {
        Command::Status => operator::status(context).await,
        Command::Operator(operator) => operator.run(context).await,
        Command::Login(login) => login.run(context).await,
        Command::Auth(auth) => auth.run(context).await,
        Command::Unwrap(unwrap) => unwrap.run(context).await,
        Command::Wrap(wrap) => wrap.run(context).await,
        Command::Token(token) => token.run(context).await,
        Command::Read(read) => read.run(context).await,
        Command::Write(write) => write.run(context).await,
        Command::Patch(patch) => patch.run(context).await,
        Command::List(list) => list.run(context).await,
        Command::Delete(delete) => delete.run(context).await,
        Command::Kv(kv) => kv.run(context).await,
        Command::Issue(issue) => issue.run(context).await,
        Command::Lease(lease) => lease.run(context).await,
        Command::Policy(policy) => policy.run(context).await,
        Command::Mount(mount) => mount.run(context).await,
        Command::Audit(audit) => audit.run(context).await,
        Command::Server(_)
        | Command::Dev(_)
        | Command::Config(_)
        | Command::Completions(_)
        | Command::Version
        | Command::ExitCodes => Ok(()),
    }
}
