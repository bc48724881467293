//! Roles: which tokens are let in, and what the tokens that they get are like.
//!
//! **Invariant:** no role lets in everyone whom its issuer knows. It binds a subject, an audience or claims;
//! at an issuer that the whole world shares it binds whose the token is, because anyone can get a token
//! there with any audience.

use std::collections::BTreeMap;

use daypass_contract::{BackendError, TokenParameters};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::claims::Leeway;
use super::config::Config;
use crate::federated::is_open;

/// How the values of bound claims are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ClaimsType {
    /// As they stand.
    #[default]
    String,
    /// As patterns, in which `*` stands for anything.
    Glob,
}

/// The one kind of role there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleType {
    /// The caller brings a token.
    #[default]
    Jwt,
}

/// A role as it is stored and shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Role {
    /// Always `jwt`.
    pub(crate) role_type: RoleType,
    /// The token must be for one of these.
    pub(crate) bound_audiences: Vec<String>,
    /// The token must be about this one.
    pub(crate) bound_subject: String,
    /// Claims, each with the values that it may have.
    pub(crate) bound_claims: Map<String, Value>,
    /// How they are compared.
    pub(crate) bound_claims_type: ClaimsType,
    /// The claim that names the caller.
    pub(crate) user_claim: String,
    /// Whether that is a JSON pointer.
    pub(crate) user_claim_json_pointer: bool,
    /// The claim that lists the caller's groups; empty for none.
    pub(crate) groups_claim: String,
    /// Claims that become metadata, each with its name there.
    pub(crate) claim_mappings: BTreeMap<String, String>,
    /// Seconds that clocks may differ by; 0 for 60, negative for none.
    pub(crate) clock_skew_leeway: Leeway,
    /// Kept for clients that set it; it would only matter to tokens without an end, which are refused.
    pub(crate) expiration_leeway: Leeway,
    /// Seconds before its end from which a token without `nbf` and `iat` counts; 0 for 150.
    pub(crate) not_before_leeway: Leeway,
    /// What the token is like.
    #[serde(flatten)]
    pub(crate) token: TokenParameters,
}

/// A request to set some of it.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RoleFields {
    /// The role.
    pub(crate) name: String,
    /// `jwt`; there is no browser flow.
    role_type: Option<String>,
    /// The token must be for one of these.
    bound_audiences: Option<Vec<String>>,
    /// The token must be about this one.
    bound_subject: Option<String>,
    /// Claims (names or JSON pointers) with a value or a list of values that they may have.
    bound_claims: Option<Map<String, Value>>,
    /// `string`, or `glob` for values in which `*` stands for anything.
    bound_claims_type: Option<ClaimsType>,
    /// The claim that names the caller.
    user_claim: Option<String>,
    /// Whether `user_claim` is a JSON pointer.
    user_claim_json_pointer: Option<bool>,
    /// The claim (a name or a JSON pointer) that lists the caller's groups.
    groups_claim: Option<String>,
    /// Claims (names or JSON pointers) that become metadata, each with its name there.
    claim_mappings: Option<BTreeMap<String, String>>,
    /// Seconds that clocks may differ by; 0 for 60, negative for none.
    clock_skew_leeway: Option<Leeway>,
    /// Seconds that a token without an end lasts; such tokens are refused.
    expiration_leeway: Option<Leeway>,
    /// Seconds before its end from which a token without `nbf` and `iat` counts; 0 for 150.
    not_before_leeway: Option<Leeway>,
}

impl Role {
    /// Takes over what a request gives and checks that it fits together at a mount with `config`.
    ///
    /// # Errors
    /// What does not fit, naming the field and the fix.
    pub(crate) fn update(
        &mut self,
        fields: RoleFields,
        config: Option<&Config>,
    ) -> Result<(), BackendError> {
        let RoleFields {
            name: _,
            role_type,
            bound_audiences,
            bound_subject,
            bound_claims,
            bound_claims_type,
            user_claim,
            user_claim_json_pointer,
            groups_claim,
            claim_mappings,
            clock_skew_leeway,
            expiration_leeway,
            not_before_leeway,
        } = fields;
        match role_type.as_deref() {
            None | Some("" | "jwt") => {}
            Some("oidc") => {
                return Err(BackendError::Unsupported(
                    "role_type \"oidc\" is the browser flow, and logins here are by machines: use \
                     role_type \"jwt\""
                        .into(),
                ));
            }
            Some(_) => return Err(BackendError::field("role_type", "must be \"jwt\"")),
        }
        set(&mut self.bound_audiences, bound_audiences);
        set(&mut self.bound_subject, bound_subject);
        set(&mut self.bound_claims, bound_claims);
        set(&mut self.bound_claims_type, bound_claims_type);
        set(&mut self.user_claim, user_claim);
        set(&mut self.user_claim_json_pointer, user_claim_json_pointer);
        set(&mut self.groups_claim, groups_claim);
        set(&mut self.claim_mappings, claim_mappings);
        set(&mut self.clock_skew_leeway, clock_skew_leeway);
        set(&mut self.expiration_leeway, expiration_leeway);
        set(&mut self.not_before_leeway, not_before_leeway);
        self.check(config)
    }

    fn check(&self, config: Option<&Config>) -> Result<(), BackendError> {
        if self.user_claim.is_empty() {
            return Err(BackendError::field(
                "user_claim",
                "a user claim must be defined on the role, such as \"sub\"",
            ));
        }
        if self.user_claim_json_pointer && !self.user_claim.starts_with('/') {
            return Err(BackendError::field(
                "user_claim",
                "a JSON pointer begins with \"/\"",
            ));
        }
        for bound in self.bound_claims.values() {
            self.check_bound(bound)?;
        }
        let mut names: Vec<&String> = self.claim_mappings.values().collect();
        names.sort_unstable();
        if names.iter().any(|name| *name == "role" || name.is_empty()) {
            return Err(BackendError::field(
                "claim_mappings",
                "metadata key \"role\" is reserved and may not be a mapping destination",
            ));
        }
        if names.windows(2).any(|two| two.first() == two.last()) {
            return Err(BackendError::field(
                "claim_mappings",
                "multiple claims are mapped to the same metadata key",
            ));
        }
        if !self.binds() {
            return Err(BackendError::InvalidRole(
                "must have at least one bound constraint when creating/updating a role: set \
                 bound_subject, bound_audiences or bound_claims"
                    .into(),
            ));
        }
        config.map_or(Ok(()), |config| self.check_issuer(config))
    }

    fn check_bound(&self, bound: &Value) -> Result<(), BackendError> {
        let problem = match (bound, self.bound_claims_type) {
            (Value::Array(many), _) if many.is_empty() => "a list of no values never matches",
            (Value::Array(many), _) if many.iter().any(Value::is_array) => {
                "values are text, numbers or booleans, or lists of them"
            }
            (Value::Array(many), _) => {
                return many.iter().try_for_each(|one| self.check_bound(one));
            }
            (Value::String(_), _) | (Value::Number(_) | Value::Bool(_), ClaimsType::String) => {
                return Ok(());
            }
            (_, ClaimsType::Glob) => "with bound_claims_type \"glob\" all values are text",
            (_, ClaimsType::String) => "values are text, numbers or booleans, or lists of them",
        };
        Err(BackendError::field("bound_claims", problem))
    }

    /// Whether there is a token that the role does not let in.
    fn binds(&self) -> bool {
        let open = |bound: &Value| {
            self.bound_claims_type == ClaimsType::Glob
                && texts(bound).iter().any(|text| is_open(text))
        };
        !self.bound_subject.is_empty()
            || !self.bound_audiences.is_empty()
            || self.bound_claims.values().any(|bound| !open(bound))
    }

    /// Refuses a role that anyone in the world could use, given who issues the mount's tokens. Asked again
    /// at each login, as the configuration may have changed since the role was written.
    ///
    /// # Errors
    /// Which claim to bind.
    pub(crate) fn check_issuer(&self, config: &Config) -> Result<(), BackendError> {
        let Some(shared) = SharedIssuer::of(config) else {
            return Ok(());
        };
        let names_owner = |(selector, bound): (&String, &Value)| {
            let name = selector.strip_prefix('/').unwrap_or(selector);
            shared.owner_claims.contains(&name)
                && !texts(bound).is_empty()
                && texts(bound).iter().all(|text| self.is_owned(text))
        };
        if !self.bound_subject.is_empty() || self.bound_claims.iter().any(names_owner) {
            return Ok(());
        }
        Err(BackendError::InvalidRole(format!(
            "{} gives tokens to anyone in the world, with any audience: bind whose they are by \
             bound_subject or by one of the bound_claims {} (such as {}; in a glob, the owner and \
             its \"/\" stand before the first \"*\")",
            shared.host,
            shared.owner_claims.join(", "),
            shared.example,
        )))
    }

    /// Whether a bound value belongs to one owner: `octo/*` does, `octo*` also fits `octopus/app`.
    fn is_owned(&self, text: &str) -> bool {
        match text.split_once('*') {
            Some((before, _)) if self.bound_claims_type == ClaimsType::Glob => before.contains('/'),
            _ => !text.is_empty(),
        }
    }
}

/// The texts among the values of a bound claim.
fn texts(bound: &Value) -> Vec<&str> {
    match bound {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn set<T>(target: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *target = given;
    }
}

/// An issuer where anyone can get a token with any audience.
struct SharedIssuer {
    host: &'static str,
    /// Claims that say whose a token is. (GitHub's `job_workflow_ref` does not: anyone may call a public
    /// workflow.)
    owner_claims: &'static [&'static str],
    example: &'static str,
}

const SHARED_ISSUERS: &[SharedIssuer] = &[
    SharedIssuer {
        host: "token.actions.githubusercontent.com",
        owner_claims: &[
            "sub",
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "workflow_ref",
            "enterprise",
            "enterprise_id",
        ],
        example: "repository=octo-org/app",
    },
    SharedIssuer {
        host: "gitlab.com",
        owner_claims: &[
            "sub",
            "project_path",
            "project_id",
            "namespace_path",
            "namespace_id",
            "user_login",
            "user_id",
        ],
        example: "project_path=octo-group/app",
    },
];

impl SharedIssuer {
    fn of(config: &Config) -> Option<&'static Self> {
        let named = [
            &config.bound_issuer,
            &config.oidc_discovery_url,
            &config.jwks_url,
        ];
        let hosts: Vec<String> = named
            .into_iter()
            // GitLab's older tokens name the host alone.
            .filter_map(|text| {
                Url::parse(text)
                    .or_else(|_| Url::parse(&format!("https://{text}")))
                    .ok()
            })
            .filter_map(|url| url.host_str().map(str::to_owned))
            .collect();
        SHARED_ISSUERS
            .iter()
            .find(|shared| hosts.iter().any(|host| host == shared.host))
    }
}

#[cfg(test)]
mod tests {
    use daypass_contract::Body;
    use serde_json::json;

    use super::*;

    fn write(body: Value, config: &Config) -> Result<Role, String> {
        let Value::Object(mut fields) = body else {
            panic!("an object")
        };
        fields.insert("name".into(), json!("r"));
        fields.entry("user_claim").or_insert(json!("sub"));
        let mut role = Role::default();
        let fields = Body::new(fields)
            .decode()
            .map_err(|error| error.to_string())?;
        role.update(fields, Some(config))
            .map_err(|error| error.to_string())?;
        Ok(role)
    }

    #[test]
    fn a_role_that_would_let_in_anyone_is_refused() {
        let config = Config::default();
        let refused = [
            (json!({}), "at least one bound constraint"),
            (json!({"bound_audiences": []}), "at least one bound"),
            (json!({"bound_audiences": ""}), "at least one bound"),
            (json!({"bound_subject": ""}), "at least one bound"),
            (json!({"bound_claims": {}}), "at least one bound"),
            (
                json!({"bound_claims": {"a": "*"}, "bound_claims_type": "glob"}),
                "at least one bound",
            ),
            (
                json!({"bound_claims": {"a": ["x", "**"]}, "bound_claims_type": "glob"}),
                "at least one bound",
            ),
            (json!({"bound_claims": {"a": []}}), "never matches"),
            (json!({"bound_claims": {"a": {"b": 1}}}), "values are text"),
            (json!({"bound_claims": {"a": null}}), "values are text"),
            (json!({"bound_claims": {"a": [["b"]]}}), "values are text"),
            (
                json!({"bound_claims": {"a": 3}, "bound_claims_type": "glob"}),
                "all values are text",
            ),
            (
                json!({"bound_claims": {"a": 3}, "bound_claims_type": "regex"}),
                "string, glob",
            ),
            (
                json!({"bound_subject": "a", "user_claim": ""}),
                "user claim must be defined",
            ),
            (
                json!({"bound_subject": "a", "user_claim": "sub", "user_claim_json_pointer": true}),
                "begins with \"/\"",
            ),
            (
                json!({"bound_subject": "a", "role_type": "oidc"}),
                "browser flow",
            ),
            (
                json!({"bound_subject": "a", "role_type": "x"}),
                "must be \"jwt\"",
            ),
            (
                json!({"bound_subject": "a", "claim_mappings": {"a": "role"}}),
                "is reserved",
            ),
            (
                json!({"bound_subject": "a", "claim_mappings": {"a": "b", "c": "b"}}),
                "same metadata key",
            ),
            (
                json!({"bound_subject": "a", "clock_skew_leeway": "x"}),
                "clock_skew_leeway",
            ),
        ];
        for (body, want) in refused {
            let said = write(body.clone(), &config).unwrap_err();
            assert!(said.contains(want), "{body}: {said}");
        }
        let accepted = [
            json!({"bound_audiences": "a"}),
            json!({"bound_subject": "a", "role_type": "jwt"}),
            json!({"bound_claims": {"a": true, "b": 3, "c": ["x", 1]}}),
            json!({"bound_claims": {"a": "*"}, "bound_claims_type": "string"}),
            json!({"bound_claims": {"a": "*", "b": "x*"}, "bound_claims_type": "glob"}),
            json!({"bound_subject": "a", "clock_skew_leeway": "-1", "not_before_leeway": "2m",
                "expiration_leeway": 10, "claim_mappings": "a=b,/c/d=e"}),
        ];
        for body in accepted {
            write(body, &config).unwrap();
        }
    }

    #[test]
    fn at_an_issuer_of_the_whole_world_a_role_says_whose_the_token_is() {
        let github = [
            Config {
                oidc_discovery_url: "https://token.actions.githubusercontent.com".into(),
                ..Config::default()
            },
            Config {
                bound_issuer: "https://token.actions.githubusercontent.com/octo-enterprise".into(),
                ..Config::default()
            },
            Config {
                jwks_url: "https://token.actions.githubusercontent.com/.well-known/jwks".into(),
                ..Config::default()
            },
        ];
        let gitlab =
            ["https://gitlab.com", "gitlab.com", "https://GITLAB.com/"].map(|issuer| Config {
                bound_issuer: issuer.into(),
                ..Config::default()
            });
        let glob = |claims: Value| json!({"bound_claims": claims, "bound_claims_type": "glob"});
        let exact = |claims: Value| json!({ "bound_claims": claims });
        let cases = [
            // body, at GitHub, at GitLab
            (json!({"bound_audiences": "daypass"}), false, false),
            (
                json!({"bound_subject": "repo:o/a:ref:refs/heads/main"}),
                true,
                true,
            ),
            (exact(json!({"repository": "octo-org/app"})), true, false),
            (
                exact(json!({"/repository": ["octo-org/app", "octo-org/b"]})),
                true,
                false,
            ),
            (exact(json!({"project_path": "octo/app"})), false, true),
            (exact(json!({"project_id": "22"})), false, true),
            (exact(json!({"ref": "refs/heads/main"})), false, false),
            (
                exact(json!({"runner_environment": "github-hosted"})),
                false,
                false,
            ),
            (
                exact(json!({"job_workflow_ref": "octo-org/w/.github/w.yml@main"})),
                false,
                false,
            ),
            (exact(json!({"repository": ""})), false, false),
            (exact(json!({"repository": 3})), false, false),
            (glob(json!({"repository": "octo-org/*"})), true, false),
            (glob(json!({"repository": "octo-org*"})), false, false),
            (glob(json!({"repository": "*/app"})), false, false),
            (
                glob(json!({"repository": ["octo-org/app", "*"]})),
                false,
                false,
            ),
            (glob(json!({"repository_owner": "octo*"})), false, false),
            (glob(json!({"repository_owner": "octo-org"})), true, false),
            (glob(json!({"sub": "repo:octo-org/app:*"})), true, true),
            (glob(json!({"sub": "repo:octo*/app:x"})), false, false),
            (glob(json!({"project_path": "octo-group/*"})), false, true),
        ];
        for (body, at_github, at_gitlab) in cases {
            let mut body = body;
            body["bound_audiences"] = json!("daypass");
            for config in &github {
                let written = write(body.clone(), config);
                assert_eq!(written.is_ok(), at_github, "{body} {written:?}");
            }
            for config in &gitlab {
                let written = write(body.clone(), config);
                assert_eq!(written.is_ok(), at_gitlab, "{body} {written:?}");
            }
            assert!(write(body, &Config::default()).is_ok());
        }
        let said = write(json!({"bound_audiences": "a"}), &github[0]).unwrap_err();
        assert!(said.contains("repository=octo-org/app"), "{said}");
    }

    #[test]
    fn what_a_request_leaves_out_stays() {
        let mut role = write(
            json!({"bound_subject": "a", "groups_claim": "g", "clock_skew_leeway": 5}),
            &Config::default(),
        )
        .unwrap();
        let fields =
            Body::new(serde_json::from_str(r#"{"name": "r", "bound_subject": "b"}"#).unwrap());
        role.update(fields.decode().unwrap(), None).unwrap();
        let shown = serde_json::to_value(&role).unwrap();
        assert_eq!(shown["bound_subject"], "b");
        assert_eq!(shown["groups_claim"], "g");
        assert_eq!(shown["clock_skew_leeway"], 5);
        assert_eq!(shown["role_type"], "jwt");
        assert_eq!(shown["token_ttl"], 0);
    }
}
