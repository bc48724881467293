//! Encrypting, decrypting, rewrapping, and keys for data.

use std::sync::Arc;

use daypass_contract::{BackendError, Call, Reply, Secret};

use crate::Transit;
use crate::batch::Outcomes;
use crate::keys::Key;
use crate::manage::NewKey;
use crate::text::{self, Marshaling};
use crate::wire::{
    Answer, Cipher, CipherView, DataKeyRequest, DataKeyView, DecryptRequest, EncryptRequest, Plain,
    PlainView, RewrapRequest,
};

/// What encryption is bound to besides its key.
struct Bound {
    context: Secret,
    aad: Secret,
}

impl Bound {
    fn of(key: &Key, context: Option<&Secret>, aad: Option<&Secret>) -> Result<Self, BackendError> {
        let aad = text::decode_or_empty("associated_data", aad)?;
        if !aad.is_empty() && key.record.kind.cipher().is_none() {
            let problem = format!(
                "provided for non-AEAD cipher suite {}",
                key.record.kind.name()
            );
            return Err(BackendError::field("associated_data", problem));
        }
        Ok(Self {
            context: text::decode_or_empty("context", context)?,
            aad,
        })
    }
}

impl Transit {
    pub(crate) async fn encrypt(
        self: Arc<Self>,
        call: Call,
        request: EncryptRequest,
    ) -> Result<Reply<Answer<CipherView>>, BackendError> {
        let has_context = |context: Option<&Secret>| context.is_some_and(|text| !text.is_empty());
        let derived = match &request.batch_input {
            None => has_context(request.context.as_ref()),
            Some(batch) => {
                let with = |one: &&Plain| has_context(one.context.as_ref());
                let count = batch.iter().filter(with).count();
                if count != 0 && count != batch.len() {
                    return Err(BackendError::InvalidRequest(
                        "context should be set either in all the request blocks or in none".into(),
                    ));
                }
                count != 0
            }
        };
        let key = match self.keys.find(&request.name).await? {
            Some(key) => key,
            None => self.upsert(&call, &request, derived).await?,
        };
        encrypts(&key, "encryption")?;
        let Some(batch) = request.batch_input else {
            let one = Plain {
                plaintext: request.plaintext.ok_or_else(|| {
                    BackendError::field("plaintext", "missing plaintext to encrypt")
                })?,
                context: request.context,
                associated_data: request.associated_data,
                key_version: request.key_version,
                reference: String::new(),
            };
            return Reply::data(&Answer::One(self.encrypt_one(&key, &one).await?));
        };
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.encrypt_one(&key, one).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer_or_fail(request.partial_failure_response_code)?)
    }

    /// Makes the key that is missing. Only who may create gets here: see `Backend::exists`.
    async fn upsert(
        &self,
        call: &Call,
        request: &EncryptRequest,
        derived: bool,
    ) -> Result<Arc<Key>, BackendError> {
        if !self.upsert {
            return Err(not_found());
        }
        if request.kind.cipher().is_none() {
            let problem = format!(
                "key type {} not supported for this operation: make the key by keys/ first",
                request.kind.name()
            );
            return Err(BackendError::field("type", problem));
        }
        // A request that cannot be honoured leaves no key behind.
        if request.plaintext.is_none() && request.batch_input.as_ref().is_none_or(Vec::is_empty) {
            return Err(BackendError::field(
                "plaintext",
                "missing plaintext to encrypt",
            ));
        }
        let new = NewKey {
            kind: request.kind,
            derived,
            convergent: request.convergent_encryption,
            ..NewKey::default()
        };
        self.make(&request.name, &new, call.now).await?;
        self.keys.find(&request.name).await?.ok_or_else(not_found)
    }

    async fn encrypt_one(&self, key: &Key, one: &Plain) -> Result<CipherView, BackendError> {
        let bound = Bound::of(key, one.context.as_ref(), one.associated_data.as_ref())?;
        let plaintext = text::decode("plaintext", &one.plaintext)?;
        self.seal(key, one.key_version, &plaintext, &bound).await
    }

    async fn seal(
        &self,
        key: &Key,
        asked: i64,
        plaintext: &Secret,
        bound: &Bound,
    ) -> Result<CipherView, BackendError> {
        // Its nonces come from the text alone: two tags under one nonce would give away the key that
        // authenticates.
        if key.record.convergent && !bound.aad.is_empty() {
            let problem = "a key with convergent encryption takes none: bind by context instead";
            return Err(BackendError::field("associated_data", problem));
        }
        let number = key.record.version_for_use(asked)?;
        let version = self.keys.version(key, number).await?;
        let (context, aad) = (bound.context.expose(), bound.aad.expose());
        let sealed = version.encrypt(plaintext, context, aad, self.entropy())?;
        Ok(CipherView {
            ciphertext: Marshaling::Asn1.write(number, &sealed),
            key_version: number,
        })
    }

    async fn open(&self, key: &Key, one: &Cipher, bound: &Bound) -> Result<Secret, BackendError> {
        if one.ciphertext.is_empty() {
            return Err(BackendError::field(
                "ciphertext",
                "missing ciphertext to decrypt",
            ));
        }
        let (number, sealed) = Marshaling::Asn1.read("ciphertext", one.ciphertext.expose())?;
        key.record.check_version("ciphertext", number)?;
        let version = self.keys.version(key, number).await?;
        version.decrypt(sealed, bound.context.expose(), bound.aad.expose())
    }

    pub(crate) async fn decrypt(
        self: Arc<Self>,
        _: Call,
        request: DecryptRequest,
    ) -> Result<Reply<Answer<PlainView>>, BackendError> {
        let key = self.key(&request.name).await?;
        encrypts(&key, "decryption")?;
        let Some(batch) = request.batch_input else {
            let one = Cipher {
                ciphertext: ciphertext(request.ciphertext)?,
                context: request.context,
                associated_data: request.associated_data,
                key_version: 0,
                reference: String::new(),
            };
            return Reply::data(&Answer::One(self.decrypt_one(&key, &one).await?));
        };
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.decrypt_one(&key, one).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer_or_fail(request.partial_failure_response_code)?)
    }

    async fn decrypt_one(&self, key: &Key, one: &Cipher) -> Result<PlainView, BackendError> {
        let bound = Bound::of(key, one.context.as_ref(), one.associated_data.as_ref())?;
        let plaintext = self.open(key, one, &bound).await?;
        Ok(PlainView {
            plaintext: text::encode(plaintext.expose()),
        })
    }

    pub(crate) async fn rewrap(
        self: Arc<Self>,
        _: Call,
        request: RewrapRequest,
    ) -> Result<Reply<Answer<CipherView>>, BackendError> {
        let key = self.key(&request.name).await?;
        encrypts(&key, "decryption")?;
        let Some(batch) = request.batch_input else {
            let one = Cipher {
                ciphertext: ciphertext(request.ciphertext)?,
                context: request.context,
                associated_data: request.associated_data,
                key_version: request.key_version,
                reference: String::new(),
            };
            return Reply::data(&Answer::One(self.rewrap_one(&key, &one).await?));
        };
        let mut outcomes = Outcomes::of(batch.len())?;
        for one in &batch {
            let outcome = self.rewrap_one(&key, one).await;
            outcomes.add(outcome, &one.reference).await?;
        }
        Reply::data(&outcomes.answer())
    }

    async fn rewrap_one(&self, key: &Key, one: &Cipher) -> Result<CipherView, BackendError> {
        let bound = Bound::of(key, one.context.as_ref(), one.associated_data.as_ref())?;
        let plaintext = self.open(key, one, &bound).await?;
        self.seal(key, one.key_version, &plaintext, &bound).await
    }

    pub(crate) async fn data_key(
        self: Arc<Self>,
        _: Call,
        request: DataKeyRequest,
    ) -> Result<Reply<DataKeyView>, BackendError> {
        let shown = match request.plaintext.as_str() {
            "plaintext" => true,
            "wrapped" => false,
            _ => {
                return Err(BackendError::InvalidRequest(
                    "Invalid path, must be 'plaintext' or 'wrapped'".into(),
                ));
            }
        };
        let bits = request.bits.unwrap_or(256);
        if !matches!(bits, 128 | 256 | 512) {
            let problem = "invalid bit length: must be 128, 256 or 512";
            return Err(BackendError::field("bits", problem));
        }
        let length = usize::from(bits / 8);
        let key = self.key(&request.name).await?;
        encrypts(&key, "encryption")?;
        let bound = Bound::of(
            &key,
            request.context.as_ref(),
            request.associated_data.as_ref(),
        )?;
        let mut bytes = vec![0; length];
        self.entropy().fill(&mut bytes);
        let plaintext = Secret::new(bytes);
        let sealed = self.seal(&key, 0, &plaintext, &bound).await?;
        Reply::data(&DataKeyView {
            ciphertext: sealed.ciphertext,
            key_version: sealed.key_version,
            plaintext: shown.then(|| PlainView {
                plaintext: text::encode(plaintext.expose()),
            }),
        })
    }

    /// The key called `name`, which must be there.
    pub(crate) async fn key(&self, name: &str) -> Result<Arc<Key>, BackendError> {
        self.keys.find(name).await?.ok_or_else(not_found)
    }
}

fn not_found() -> BackendError {
    BackendError::InvalidRequest("encryption key not found".into())
}

fn encrypts(key: &Key, what: &str) -> Result<(), BackendError> {
    let kind = key.record.kind;
    if kind.encrypts() {
        return Ok(());
    }
    Err(BackendError::InvalidRequest(format!(
        "message {what} not supported for key type {}",
        kind.name()
    )))
}

fn ciphertext(sent: Option<Secret>) -> Result<Secret, BackendError> {
    sent.ok_or_else(|| BackendError::field("ciphertext", "missing ciphertext to decrypt"))
}
