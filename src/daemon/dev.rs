//! What `serve --dev` prints: lines to paste, with a token that was issued this moment.

use std::path::Path;

use super::{Daemon, Listen};

/// Prints how to use the daemon that has just started.
pub(super) fn greet(daemon: &Daemon, dir: &Path) {
    let control = daemon.control_at;
    let data = daemon.listening.iter().find_map(|place| match place {
        Listen::Tcp(address) => Some(*address),
        Listen::Tls(_) | Listen::Unix(_) => None,
    });
    let Some(data) = data else { return };
    let issued = match issue(control) {
        Ok(issued) => issued,
        Err(error) => {
            tracing::warn!(%error, "cannot issue a token to show");
            return;
        }
    };
    let Issued { token, id } = issued;
    println!(
        "\nEdgate is ready. Everything it keeps is in {}. Stop it with Ctrl-C.\n\n\
         # this token was issued just now and is good for an hour\n\
         TOKEN={token}\n\n\
         # 1. verify it: valid, with the agent, its scope and the seconds left\n\
         curl -s http://{data}/v1/tokens/verify -H 'Content-Type: application/json' -d \"{{\\\"token\\\":\\\"$TOKEN\\\"}}\"\n\n\
         # 2. the same as a load balancer asks: 200 and identity headers\n\
         curl -si http://{data}/auth/nginx -H \"Authorization: Bearer $TOKEN\"\n\n\
         # 3. revoke it\n\
         curl -s -X POST http://{control}/v1/tokens/{id}/revoke -H 'Content-Type: application/json' -d '{{\"reason\":\"trying it out\"}}'\n\n\
         # 4. verify it again: refused\n\
         curl -s http://{data}/v1/tokens/verify -H 'Content-Type: application/json' -d \"{{\\\"token\\\":\\\"$TOKEN\\\"}}\"\n\n\
         # 5. check the chain of everything that was decided\n\
         curl -s http://{control}/v1/audit/verify-chain\n",
        dir.display()
    );
}

struct Issued {
    token: String,
    id: String,
}

/// Issues a token the way everyone does: through the control listener.
fn issue(control: std::net::SocketAddr) -> Result<Issued, String> {
    let asked = serde_json::json!({
        "agent_id": "agent-1",
        "scope": ["orders.create", "orders.read"],
        "task": "try Edgate out",
        "constraints": {"max_order_usd": 200},
        "own": "you@example.com",
        "ttl": 3600,
    });
    let mut answer = ureq::post(format!("http://{control}/v1/tokens"))
        .send_json(asked)
        .map_err(|error| error.to_string())?;
    let answer: serde_json::Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
    let text = |name: &str| {
        answer[name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name} in the answer"))
    };
    Ok(Issued { token: text("token")?, id: text("id")? })
}

/// Makes the folder that everything goes into.
pub(super) fn make_folder(dir: &Path) -> Result<(), super::StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| super::StartError::Folder { path: dir.to_owned(), error })
}
