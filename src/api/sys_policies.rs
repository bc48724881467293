//! `sys/policies/acl`, its older form `sys/policy`, and `sys/policies/password`.

use daypass_contract::{Keys, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::policy::builtin;

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct WriteRequest {
    name: String,
    /// The rules, in HCL or JSON, in clear or base64.
    policy: Option<String>,
    /// What older clients call `policy`.
    rules: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Names {
    keys: Vec<String>,
    policies: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct PolicyView {
    name: String,
    policy: String,
}

#[derive(Serialize, JsonSchema)]
struct OldPolicyView {
    name: String,
    rules: String,
}

#[derive(Serialize, JsonSchema)]
struct PasswordPolicyView {
    policy: String,
}

#[derive(Serialize, JsonSchema)]
struct PasswordView {
    #[serde(serialize_with = "daypass_contract::reveal")]
    password: Secret,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    for pattern in ["sys/policies/acl", "sys/policy"] {
        routes.serve::<NoFields, Names, _, _>(List, pattern, "Lists the policies' names.", list);
        routes.serve::<NoFields, Names, _, _>(Read, pattern, "Lists the policies' names.", list);
    }
    routes.serve::<NameRequest, PolicyView, _, _>(
        Read,
        "sys/policies/acl/{name}",
        "Reads a policy.",
        |call, request| {
            read(call, request, |name, policy| {
                Answer::flat(&PolicyView { name, policy })
            })
        },
    );
    routes.serve::<NameRequest, OldPolicyView, _, _>(
        Read,
        "sys/policy/{name}",
        "Reads a policy.",
        |call, request| {
            read(call, request, |name, rules| {
                Answer::flat(&OldPolicyView { name, rules })
            })
        },
    );
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "sys/policies/password",
        "Lists the password policies.",
        list_password,
    );
    let pattern = "sys/policies/password/{name}";
    routes.serve::<NameRequest, PasswordPolicyView, _, _>(
        Read,
        pattern,
        "Reads a password policy.",
        read_password,
    );
    routes.serve::<WriteRequest, (), _, _>(
        Write,
        pattern,
        "Writes a password policy.",
        write_password,
    );
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes a password policy.",
        delete_password,
    );
    routes.serve::<NameRequest, PasswordView, _, _>(
        Read,
        "sys/policies/password/{name}/generate",
        "Makes a password by a policy, to try it.",
        generate_password,
    );
    for pattern in ["sys/policies/acl/{name}", "sys/policy/{name}"] {
        routes.serve::<WriteRequest, (), _, _>(
            Write,
            pattern,
            "Writes a policy; it applies at once.",
            write,
        );
        routes.serve::<NameRequest, (), _, _>(
            Delete,
            pattern,
            "Deletes a policy; it grants nothing from then on.",
            delete,
        );
    }
}

async fn list_password(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    Answer::keys(&call.engine()?.passwords.names().await?)
}

async fn read_password(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let text = call
        .engine()?
        .passwords
        .text(&request.name)
        .await?
        .ok_or(Failure::NotFound)?;
    Answer::data(&PasswordPolicyView { policy: text })
}

async fn write_password(call: SystemCall, request: WriteRequest) -> Result<Answer, Failure> {
    let given = rules(request.policy)?;
    call.engine()?.passwords.put(&request.name, &given).await?;
    Ok(Answer::nothing())
}

async fn delete_password(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    call.engine()?.passwords.delete(&request.name).await?;
    Ok(Answer::nothing())
}

async fn generate_password(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let password = call
        .engine()?
        .passwords
        .generate(&request.name)
        .await?
        .ok_or(Failure::NotFound)?;
    Answer::data(&PasswordView { password })
}

async fn list(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let names = call.engine()?.policies.names();
    Answer::flat(&Names {
        keys: names.clone(),
        policies: names,
    })
}

async fn read(
    call: SystemCall,
    request: NameRequest,
    show: fn(String, String) -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    let name = request.name.to_lowercase();
    if name == builtin::ROOT {
        return show(name, String::new());
    }
    let policy = call
        .engine()?
        .policies
        .get(&name)
        .ok_or(Failure::NotFound)?;
    show(name, policy.text().to_owned())
}

async fn write(call: SystemCall, request: WriteRequest) -> Result<Answer, Failure> {
    let given = rules(request.policy.or(request.rules))?;
    let engine = call.engine()?;
    refuse_declared(&engine, &request.name)?;
    engine.policies.put(&request.name, &given).await?;
    Ok(Answer::nothing())
}

fn rules(given: Option<String>) -> Result<String, Failure> {
    given.filter(|text| !text.trim().is_empty()).ok_or_else(|| {
        Failure::Invalid("field \"policy\": is required: the rules in HCL or JSON".into())
    })
}

fn refuse_declared(engine: &Engine, name: &str) -> Result<(), Failure> {
    if engine.declares_policy(&name.to_lowercase()) {
        return Err(Failure::Invalid(format!(
            "policy \"{name}\" is declared in the configuration file: change it there"
        )));
    }
    Ok(())
}

async fn delete(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    refuse_declared(&engine, &request.name)?;
    engine.policies.delete(&request.name).await?;
    Ok(Answer::nothing())
}
