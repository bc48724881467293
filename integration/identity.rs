//! Identity with the clients people have: hvac's module, and PyJWT as the cloud that trusts our tokens.

use crate::server::Server;
use crate::tools;

#[test]
fn hvac_keeps_identities_and_others_verify_their_tokens() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_identity.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root),
    );
    server.verify_audit();
}
