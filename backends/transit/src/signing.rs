//! Signing, verifying, authenticating, hashing, and random bytes.

use std::sync::Arc;

use daypass_contract::{BackendError, Call, Reply, Secret};

use crate::Transit;
use crate::batch::Outcomes;
use crate::hash::Hash;
use crate::keys::Key;
use crate::text::{self, Marshaling};
use crate::version::Method;
use crate::wire::{
    Answer, Claim, Format, HashRequest, HmacRequest, HmacView, Input, RandomRequest, RandomView,
    SignRequest, SignatureView, SumView, ValidView, VerifyRequest,
};

/// The most random bytes of one request.
const MOST_RANDOM: i64 = 128 * 1024;

impl Transit {
    pub(crate) async fn sign(
        self: Arc<Self>,
        _: Call,
        request: SignRequest,
    ) -> Result<Reply<Answer<SignatureView>>, BackendError> {
        let method = request.method()?;
        let key = self.keys.find(&request.name).await?;
        let key = key.ok_or_else(|| missing("signing key not found"))?;
        signs(&key, "signing")?;
        let number = key.record.version_for_use(request.key_version)?;
        let Some(batch) = request.batch_input else {
            let one = Input {
                input: request.input,
                context: request.context,
                reference: String::new(),
            };
            let signed = self.sign_one(&key, number, &one, method).await?;
            return Reply::data(&Answer::One(signed));
        };
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.sign_one(&key, number, one, method).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer())
    }

    async fn sign_one(
        &self,
        key: &Key,
        number: u64,
        one: &Input,
        method: Method,
    ) -> Result<SignatureView, BackendError> {
        let input = input(one.input.as_ref(), "missing input to sign")?;
        let context = text::decode_or_empty("context", one.context.as_ref())?;
        let version = self.keys.version(key, number).await?;
        let (signature, public) = version.sign(input.expose(), context.expose(), method)?;
        let public = public.map(|public| text::encode(&public));
        Ok(SignatureView {
            signature: method.marshaling.write(number, &signature),
            key_version: number,
            public_key: public.and_then(|public| public.expose_str().map(str::to_owned)),
        })
    }

    pub(crate) async fn verify_claim(
        self: Arc<Self>,
        _: Call,
        request: VerifyRequest,
    ) -> Result<Reply<Answer<ValidView>>, BackendError> {
        let method = request.method()?;
        let key = self.keys.find(&request.name).await?;
        let key = key.ok_or_else(|| missing("signature verification key not found"))?;
        let Some(batch) = request.batch_input else {
            let one = Claim {
                input: request.input,
                context: request.context,
                signature: request.signature,
                hmac: request.hmac,
                reference: String::new(),
            };
            let verified = self.verify_one(&key, &one, method).await?;
            return Reply::data(&Answer::One(verified));
        };
        let with = |pick: fn(&Claim) -> &Option<Secret>| {
            batch.iter().filter(|one| pick(one).is_some()).count()
        };
        match (with(|one| &one.signature), with(|one| &one.hmac)) {
            (0, 0) if !batch.is_empty() => {
                let problem = "no batch_input elements have 'signature' or 'hmac'";
                return Err(missing(problem));
            }
            (signatures, hmacs) if signatures != 0 && hmacs != 0 => {
                return Err(missing(
                    "elements of batch_input must all provide 'signature' or all provide 'hmac'",
                ));
            }
            _ => {}
        }
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.verify_one(&key, one, method).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer())
    }

    async fn verify_one(
        &self,
        key: &Key,
        one: &Claim,
        method: Method,
    ) -> Result<ValidView, BackendError> {
        let input = input(one.input.as_ref(), "missing input to verify")?;
        let (field, marshaling, claim) = match (&one.signature, &one.hmac) {
            (Some(signature), None) => ("signature", method.marshaling, signature),
            (None, Some(hmac)) => ("hmac", Marshaling::Asn1, hmac),
            (Some(_), Some(_)) => {
                return Err(missing(
                    "provide one of 'signature' and 'hmac' to verify, not both",
                ));
            }
            (None, None) => {
                return Err(missing(
                    "neither a 'signature' nor an 'hmac' were given to verify",
                ));
            }
        };
        if field == "signature" {
            signs(key, "verification")?;
        }
        let (number, claimed) = marshaling.read(field, claim.expose())?;
        key.record.check_version(field, number)?;
        let version = self.keys.version(key, number).await?;
        let valid = if field == "hmac" {
            version.hmac_verifies(input.expose(), &claimed, method.hash)?
        } else {
            let context = text::decode_or_empty("context", one.context.as_ref())?;
            version.verify(input.expose(), &claimed, context.expose(), method)?
        };
        Ok(ValidView { valid })
    }

    pub(crate) async fn hmac(
        self: Arc<Self>,
        _: Call,
        request: HmacRequest,
    ) -> Result<Reply<Answer<HmacView>>, BackendError> {
        let hash = request.urlalgorithm.or(request.algorithm);
        let hash = hash.unwrap_or_default();
        let key = self.key(&request.name).await?;
        let number = key.record.version_for_use(request.key_version)?;
        let Some(batch) = request.batch_input else {
            let tagged = self
                .hmac_one(&key, number, request.input.as_ref(), hash)
                .await?;
            return Reply::data(&Answer::One(tagged));
        };
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.hmac_one(&key, number, one.input.as_ref(), hash).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer())
    }

    async fn hmac_one(
        &self,
        key: &Key,
        number: u64,
        sent: Option<&Secret>,
        hash: Hash,
    ) -> Result<HmacView, BackendError> {
        let input = input(sent, "missing input for HMAC")?;
        let version = self.keys.version(key, number).await?;
        let tag = version.hmac(input.expose(), hash)?;
        Ok(HmacView {
            hmac: Marshaling::Asn1.write(number, tag.as_ref()),
        })
    }

    pub(crate) async fn hash(
        self: Arc<Self>,
        _: Call,
        request: HashRequest,
    ) -> Result<Reply<SumView>, BackendError> {
        let hash = request.urlalgorithm.or(request.algorithm);
        let input = text::decode("input", &request.input)?;
        let sum = hash.unwrap_or_default().digest(input.expose(), false)?;
        Reply::data(&SumView {
            sum: request.format.unwrap_or(Format::Hex).write(&sum),
        })
    }

    pub(crate) async fn random(
        self: Arc<Self>,
        _: Call,
        request: RandomRequest,
    ) -> Result<Reply<RandomView>, BackendError> {
        // `random/32` names a number, `random/platform` a source.
        let (number, source) = match (request.urlbytes.as_deref(), request.source.as_deref()) {
            (Some(last), None) if last.parse::<i64>().is_err() => (None, Some(last)),
            (last, source) => (last, source),
        };
        if !matches!(source.unwrap_or_default(), "" | "platform" | "seal" | "all") {
            let problem = "must be platform, seal or all";
            return Err(BackendError::field("source", problem));
        }
        let asked = match number {
            None | Some("") => request.bytes.unwrap_or(32),
            Some(number) => number
                .parse()
                .map_err(|_| BackendError::field("bytes", "must be a number"))?,
        };
        if !(1..=MOST_RANDOM).contains(&asked) {
            let problem = format!("must be from 1 to {MOST_RANDOM}");
            return Err(BackendError::field("bytes", problem));
        }
        let mut bytes = vec![0; usize::try_from(asked).unwrap_or_default()];
        self.entropy().fill(&mut bytes);
        let bytes = Secret::new(bytes);
        let reply = Reply::data(&RandomView {
            random_bytes: request
                .format
                .unwrap_or(Format::Base64)
                .write(bytes.expose()),
        })?;
        Ok(match source {
            Some("seal" | "all") => {
                reply.warn("no seal/entropy augmentation available, using platform entropy source")
            }
            _ => reply,
        })
    }
}

impl Format {
    fn write(self, bytes: &[u8]) -> Secret {
        match self {
            Self::Hex => Secret::new(hex::encode(bytes)),
            Self::Base64 => text::encode(bytes),
        }
    }
}

fn input(sent: Option<&Secret>, problem: &str) -> Result<Secret, BackendError> {
    let sent = sent.ok_or_else(|| BackendError::field("input", problem))?;
    text::decode("input", sent)
}

fn signs(key: &Key, what: &str) -> Result<(), BackendError> {
    let kind = key.record.kind;
    if kind.signs() {
        return Ok(());
    }
    Err(missing(&format!(
        "key type {} does not support {what}",
        kind.name()
    )))
}

fn missing(problem: &str) -> BackendError {
    BackendError::InvalidRequest(problem.to_owned())
}
