//! `daypass issue`: a credential from a role, whatever backend the role belongs to.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::context::Context;
use super::output::Format;
use super::{Failure, fields};
use crate::client::{Answer, FileError, write_file, write_private};

pub(super) const ABOUT: &str = "\
Issues a credential from a role: database credentials, or a certificate with its key. What is mounted there decides
which; its lease or serial is part of the answer.

    $ daypass issue db/readonly
    $ daypass issue --field password db/readonly
    $ daypass issue pki/web common_name=app.example.org ttl=24h \\
          --out-cert app.pem --out-key app.key --out-ca ca.pem

Files are written whole or not at all, the key with mode 0600, and what went into a file is not printed.";

/// `daypass issue`.
#[derive(Args)]
#[command(after_help = fields::HELP)]
pub(super) struct Issue {
    /// The mount and the role, such as db/readonly
    #[arg(value_name = "MOUNT/ROLE")]
    role: String,
    /// Fields of the request
    #[arg(value_name = "K=V")]
    fields: Vec<String>,
    /// Write the certificate and its intermediates here
    #[arg(long, value_name = "FILE")]
    out_cert: Option<PathBuf>,
    /// Write the private key here, with mode 0600
    #[arg(long, value_name = "FILE")]
    out_key: Option<PathBuf>,
    /// Write the authority that the certificate is verified with here
    #[arg(long, value_name = "FILE")]
    out_ca: Option<PathBuf>,
}

impl Issue {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let role = self.role.trim_matches('/');
        let what = format!("issue from {role}");
        let mut client = context.client()?;
        let mount = client
            .read(&format!("sys/internal/ui/mounts/{role}"), &[])
            .await
            .map_err(|error| Failure::request(format!("find the mount of {role}"), error))?;
        let text = |name: &str| mount.data().get(name).and_then(Value::as_str).unwrap_or("");
        let (path, kind) = (text("path"), text("type"));
        let name = role.strip_prefix(path).unwrap_or_default();
        if name.is_empty() {
            return Err(
                Failure::usage(what, format!("{path} is a mount, not a role"))
                    .hint(format!("write it as {path}ROLE")),
            );
        }
        let wants_files = [&self.out_cert, &self.out_key, &self.out_ca]
            .iter()
            .any(|file| file.is_some());
        if wants_files && kind != "pki" {
            return Err(Failure::usage(
                what,
                format!("{path} issues no certificates to write into files"),
            ));
        }
        if wants_files && context.wrap_ttl.is_some() {
            return Err(Failure::usage(
                what,
                "a wrapped answer has nothing to write into files",
            ));
        }
        context.wrap(&mut client)?;
        let answer = match kind {
            "database" => {
                let query = context.query(&self.fields)?;
                let query: Vec<(&str, &str)> = query
                    .iter()
                    .map(|(k, v)| (k.as_str(), v.as_str()))
                    .collect();
                client.read(&format!("{path}creds/{name}"), &query).await
            }
            "pki" => {
                let fields = context.fields(&self.fields)?;
                client.write(&format!("{path}issue/{name}"), &fields).await
            }
            kind => {
                return Err(Failure::refused(
                    what,
                    format!("{path} is of type {kind}, which issues nothing from roles"),
                )
                .hint("`daypass read` and `daypass write` work with every mount"));
            }
        }
        .map_err(|error| Failure::request(&what, error))?;
        if wants_files {
            return self.files(context, &answer);
        }
        context.answer(&answer, "")
    }

    fn files(&self, context: &mut Context<'_, '_>, answer: &Answer) -> Result<(), Failure> {
        let issued = Issued::of(answer);
        let mut fields = answer.data().clone();
        let mut write = |path: &Path,
                         names: &[&str],
                         content: Option<String>,
                         write: fn(&Path, &[u8]) -> Result<(), FileError>| {
            let content = content.ok_or_else(|| {
                let what = format!("write {}", path.display());
                Failure::refused(what, format!("the answer has no {}", names.concat()))
            })?;
            write(path, content.as_bytes()).map_err(|error| {
                // The certificate exists: its serial is needed to revoke it.
                Failure::refused("write what was issued", error.to_string())
                    .hint(format!("its serial number is {}", issued.serial))
            })?;
            if let Some(map) = fields.as_object_mut() {
                map.retain(|name, _| !names.contains(&name.as_str()));
                map.insert(
                    format!("{}_file", names.first().unwrap_or(&"")),
                    path.display().to_string().into(),
                );
            }
            Ok::<(), Failure>(())
        };
        // The key first: a certificate without its key is worth nothing.
        if let Some(path) = &self.out_key {
            write(path, &["private_key"], issued.key.map(line), write_private)?;
        }
        if let Some(path) = &self.out_cert {
            let chain = issued.certificate.map(|own| {
                let intermediates = issued.intermediates.iter().copied();
                std::iter::once(own)
                    .chain(intermediates)
                    .map(line)
                    .collect()
            });
            write(path, &["certificate"], chain, write_file)?;
        }
        if let Some(path) = &self.out_ca {
            write(
                path,
                &["issuing_ca", "ca_chain"],
                issued.authority.map(line),
                write_file,
            )?;
        }
        match (context.format, &context.field) {
            (Format::Json, None) => context.json(&fields),
            _ => context.value(&fields, answer.json()),
        }
    }
}

fn line(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

/// The parts of an issued certificate.
struct Issued<'a> {
    certificate: Option<&'a str>,
    key: Option<&'a str>,
    /// From the issuer upwards, without the last: that one is trusted, not sent.
    intermediates: Vec<&'a str>,
    /// The last of the chain.
    authority: Option<&'a str>,
    serial: &'a str,
}

impl<'a> Issued<'a> {
    fn of(answer: &'a Answer) -> Self {
        let data = answer.data();
        let text = |name: &str| data.get(name).and_then(Value::as_str);
        let chain = data.get("ca_chain").and_then(Value::as_array);
        let mut chain: Vec<&str> = chain
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let authority = chain.pop().or_else(|| text("issuing_ca"));
        Self {
            certificate: text("certificate"),
            key: text("private_key"),
            intermediates: chain,
            authority,
            serial: text("serial_number").unwrap_or("not known"),
        }
    }
}
