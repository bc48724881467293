//! `daypass operator generate-root`: a quorum of share holders makes a root token.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use clap::{Args, Subcommand};
use daypass_contract::Secret;
use serde_json::json;

use super::Failure;
use super::context::Context;
use super::operator::{give_shares, nonce_of, show_fields, write};
use super::output::Format;

const ATTEMPT: &str = "sys/generate-root/attempt";
const UPDATE: &str = "sys/generate-root/update";

/// Base64 as any server writes the encoded token: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `daypass operator generate-root …`
#[derive(Subcommand)]
pub(super) enum GenerateRoot {
    /// Begin: prints a nonce for the share holders and a one-time password for you
    #[command(long_about = INIT)]
    Init(Init),
    /// Show how many shares have been given
    #[command(after_long_help = "Example:\n\n    $ daypass operator generate-root status")]
    Status,
    /// Give key shares; the last one prints the encoded token
    #[command(long_about = SHARE)]
    Share(Share),
    /// Print a one-time password to begin with
    #[command(
        after_long_help = "Example:\n\n    $ daypass operator generate-root otp > otp\n    \
                           $ daypass operator generate-root init --otp otp"
    )]
    Otp,
    /// Turn the encoded token into the token
    #[command(long_about = DECODE)]
    Decode,
    /// Give up; the shares given so far are forgotten
    #[command(after_long_help = "Example:\n\n    $ daypass operator generate-root cancel")]
    Cancel,
}

const INIT: &str = "\
Begins to make a root token. It prints a nonce, which the holders of key shares compare before they give theirs,
and a one-time password, which only you have: the encoded token is worthless without it.

    $ daypass operator generate-root init
    $ daypass operator generate-root init --otp otp    # from `daypass operator generate-root otp`";

const SHARE: &str = "\
Gives key shares, typed at a prompt that does not show them, or one a line through a pipe. Never as arguments.
Whoever gives the last one sees the encoded token and hands it to the holder of the one-time password.

    $ daypass operator generate-root share --nonce 2dbd10f1-8528-6246-09e7-82b25b8aba63
    $ age -d share.age | daypass operator generate-root share";

const DECODE: &str = "\
Reads the encoded token and the one-time password, in that order, one a line, and prints the token.

    $ daypass operator generate-root decode
    $ cat encoded otp | daypass operator generate-root decode | daypass login";

/// `daypass operator generate-root init`.
#[derive(Args)]
pub(super) struct Init {
    /// A file with the one-time password, or `-`; left out, the server makes one
    #[arg(long, value_name = "FILE")]
    otp: Option<String>,
}

/// `daypass operator generate-root share`.
#[derive(Args)]
pub(super) struct Share {
    /// The attempt you mean; left out, the one there is
    #[arg(long, value_name = "NONCE")]
    nonce: Option<String>,
    #[arg(hide = true)]
    key: Option<String>,
}

impl GenerateRoot {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let client = context.client()?;
        match self {
            Self::Init(init) => {
                let fields = match init.otp {
                    None => json!({}),
                    Some(file) => json!({"otp": context.read_text(&file)?.trim()}),
                };
                let answer = write(&client, "begin", ATTEMPT, fields).await?;
                show_attempt(context, &answer)?;
                if context.format == Format::Table && context.field.is_none() {
                    context.note(
                        "\nKeep the one-time password, which is shown once. Holders of key shares compare the nonce \
                         and run `daypass operator generate-root share`.",
                    );
                }
                Ok(())
            }
            Self::Status => {
                let answer = client
                    .read(ATTEMPT, &[])
                    .await
                    .map_err(|error| Failure::request("read what is under way", error))?;
                show_attempt(context, &answer)
            }
            Self::Share(share) => {
                if share.key.is_some() {
                    return Err(super::operator::refuse_argument());
                }
                let nonce = nonce_of(&client, ATTEMPT, share.nonce).await?;
                match give_shares(context, &client, "give a key share", UPDATE, &nonce).await? {
                    Some(answer) => show_attempt(context, &answer),
                    None => Ok(()),
                }
            }
            Self::Otp => {
                let answer = client
                    .read(ATTEMPT, &[])
                    .await
                    .map_err(|error| Failure::request("ask for the length", error))?;
                let length = answer.json().get("otp_length");
                let length = length.and_then(serde_json::Value::as_u64).unwrap_or(0);
                let otp = one_time_password(usize::try_from(length).unwrap_or(0))?;
                context.print(&format!("{}\n", otp.expose_str().unwrap_or_default()))
            }
            Self::Decode => {
                let mut lines = context.read_secrets("Encoded token")?;
                if lines.len() == 1 {
                    lines.extend(context.read_secrets("One-time password")?);
                }
                let [encoded, otp] = &lines[..] else {
                    return Err(Failure::usage(
                        "decode the token",
                        "two lines are needed: the encoded token, then the one-time password",
                    ));
                };
                let token = decode(encoded, otp)?;
                context.print(&format!("{}\n", token.expose_str().unwrap_or_default()))
            }
            Self::Cancel => {
                let answer = client
                    .delete(ATTEMPT)
                    .await
                    .map_err(|error| Failure::request("cancel", error))?;
                context.answer(&answer, "No root token is being made.")
            }
        }
    }
}

fn show_attempt(
    context: &mut Context<'_, '_>,
    answer: &crate::client::Answer,
) -> Result<(), Failure> {
    show_fields(
        context,
        answer,
        &[
            ("Nonce", "nonce"),
            ("Started", "started"),
            ("Shares given", "progress"),
            ("Shares needed", "required"),
            ("Complete", "complete"),
            ("One-time password", "otp"),
            ("Encoded token", "encoded_token"),
        ],
    )
}

/// Letters and digits, from the cryptographic generator.
fn one_time_password(length: usize) -> Result<Secret, Failure> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let failed = || Failure::usage("make a one-time password", "there is no randomness");
    let mut otp = Vec::with_capacity(length);
    while otp.len() < length {
        let mut byte = [0];
        aws_lc_rs::rand::fill(&mut byte).map_err(|_| failed())?;
        // 248 is the largest multiple of 62 in a byte: no letter comes more often than another.
        if byte < [248] {
            otp.extend(ALPHABET.get(usize::from(byte[0]) % ALPHABET.len()));
        }
    }
    Ok(Secret::new(otp))
}

/// The token that `otp` hid in `encoded`.
fn decode(encoded: &Secret, otp: &Secret) -> Result<Secret, Failure> {
    let failed = |why: &str| Failure::usage("decode the token", why);
    let encoded = BASE64
        .decode(encoded.expose())
        .map(Secret::new)
        .map_err(|_| failed("the encoded token is not base64"))?;
    if encoded.len() != otp.len() {
        return Err(failed("the one-time password belongs to another attempt"));
    }
    let pairs = encoded.expose().iter().zip(otp.expose());
    let token = Secret::new(pairs.map(|(one, other)| one ^ other).collect::<Vec<u8>>());
    match token.expose_str() {
        Some(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token),
        _ => Err(failed("the one-time password belongs to another attempt")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_of_the_attempt_decodes_the_token() {
        // As OpenBao 2.7.2 answered it.
        let cases = [
            (
                "RHkCLgt5UWMKFxUmGgwTOSQ/HwQHGQJKN00",
                "7WwAJHc48ntgKkVuhpZo2TvzUy",
                Some("s.uoA12W2yaAQgELLOEk5Mt0b4"),
            ),
            (
                "RHkCLgt5UWMKFxUmGgwTOSQ/HwQHGQJKN00=",
                "7WwAJHc48ntgKkVuhpZo2TvzUy",
                Some("s.uoA12W2yaAQgELLOEk5Mt0b4"),
            ),
            ("RHkCLgt5UWMKFxUmGgwTOSQ/HwQHGQJKN00", "short", None),
            (
                "RHkCLgt5UWMKFxUmGgwTOSQ/HwQHGQJKN00",
                "RHkCLgt5UWMKFxUmGgwTOSQ/Hw",
                None,
            ),
            ("not base64!", "7WwAJHc48ntgKkVuhpZo2TvzUy", None),
        ];
        for (encoded, otp, want) in cases {
            let token = decode(&Secret::new(encoded), &Secret::new(otp)).ok();
            let token = token.map(|token| token.expose_str().unwrap().to_owned());
            assert_eq!(token.as_deref(), want, "{encoded} {otp}");
        }
        let otp = one_time_password(58).unwrap();
        assert!(otp.len() == 58 && otp.expose().iter().all(u8::is_ascii_alphanumeric));
    }
}
