//! `sys/tools/*`: random bytes and digests, which need no mount and hold no secret of the server's.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{Effect, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

/// Random bytes given at a time.
const MOST_BYTES: usize = 128 * 1024;

#[derive(Deserialize, JsonSchema)]
struct RandomRequest {
    /// How many; 32 if not given.
    bytes: Option<usize>,
    /// The same, from the path.
    urlbytes: Option<String>,
    /// `base64` or `hex`.
    format: Option<String>,
    /// Where they come from: `platform`, which is the only source.
    source: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct RandomView {
    random_bytes: String,
}

#[derive(Deserialize, JsonSchema)]
struct HashRequest {
    /// What is hashed, in base64.
    input: Option<String>,
    /// `sha2-224`, `sha2-256`, `sha2-384`, `sha2-512`, `sha3-256`, `sha3-384` or `sha3-512`.
    algorithm: Option<String>,
    /// The same, from the path.
    urlalgorithm: Option<String>,
    /// `hex` or `base64`.
    format: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct HashView {
    sum: String,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    for pattern in [
        "sys/tools/random",
        "sys/tools/random/{urlbytes}",
        "sys/tools/random/{source}/{urlbytes}",
    ] {
        routes
            .serve::<RandomRequest, RandomView, _, _>(
                Operation::Write,
                pattern,
                "Gives random bytes.",
                random,
            )
            .effect = Effect::Observe;
    }
    for pattern in ["sys/tools/hash", "sys/tools/hash/{urlalgorithm}"] {
        routes
            .serve::<HashRequest, HashView, _, _>(
                Operation::Write,
                pattern,
                "Gives a digest.",
                hash,
            )
            .effect = Effect::Observe;
    }
}

fn encode(bytes: &[u8], format: &str) -> Result<String, Failure> {
    match format {
        "base64" => Ok(STANDARD.encode(bytes)),
        "hex" => Ok(hex::encode(bytes)),
        _ => Err(Failure::Invalid(
            "field \"format\": must be hex or base64".into(),
        )),
    }
}

async fn random(call: SystemCall, request: RandomRequest) -> Result<Answer, Failure> {
    let sources = ["", "platform"];
    // What stands alone in the path is a number, or the name of a source.
    let (source, count) = match (request.source, request.urlbytes) {
        (source, Some(text)) if source.is_none() && sources.contains(&text.as_str()) => {
            (Some(text), None)
        }
        (source, text) => (source, text),
    };
    if !sources.contains(&source.as_deref().unwrap_or_default()) {
        return Err(Failure::Invalid(
            "field \"source\": must be platform".into(),
        ));
    }
    let count = match count {
        Some(text) => text.parse().ok(),
        None => Some(request.bytes.unwrap_or(32)),
    };
    let Some(count) = count.filter(|count| (1..=MOST_BYTES).contains(count)) else {
        return Err(Failure::Invalid(format!(
            "field \"bytes\": must be from 1 to {MOST_BYTES}"
        )));
    };
    let mut bytes = vec![0; count];
    call.plane.entropy.fill(&mut bytes);
    Answer::data(&RandomView {
        random_bytes: encode(&bytes, request.format.as_deref().unwrap_or("base64"))?,
    })
}

async fn hash(_: SystemCall, request: HashRequest) -> Result<Answer, Failure> {
    let input = STANDARD
        .decode(request.input.unwrap_or_default())
        .map_err(|_| Failure::Invalid("field \"input\": must be base64".into()))?;
    let algorithm = request.urlalgorithm.or(request.algorithm);
    let algorithm = match algorithm.as_deref().unwrap_or("sha2-256") {
        "sha2-224" => &digest::SHA224,
        "sha2-256" => &digest::SHA256,
        "sha2-384" => &digest::SHA384,
        "sha2-512" => &digest::SHA512,
        "sha3-256" => &digest::SHA3_256,
        "sha3-384" => &digest::SHA3_384,
        "sha3-512" => &digest::SHA3_512,
        _ => {
            return Err(Failure::Invalid(
                "field \"algorithm\": must be sha2-224, sha2-256, sha2-384, sha2-512, sha3-256, sha3-384 or \
                 sha3-512"
                    .into(),
            ));
        }
    };
    let sum = digest::digest(algorithm, &input);
    Answer::data(&HashView {
        sum: encode(sum.as_ref(), request.format.as_deref().unwrap_or("hex"))?,
    })
}
