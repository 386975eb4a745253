//! What others tell the daemon to revoke, and what the data listener makes of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use edgate::status_list::{Bits, Document, Status, StatusList};
use serde_json::{Value, json};

use crate::support::{Edgate, ISSUER, Issuer, PATIENCE, Response, exchange, now, until};

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// A daemon that hears the transmitter `idp` about the tokens of the issuer `test`.
fn start(idp: &Issuer) -> Edgate {
    let transmitter = format!(
        "[[revocation.transmitters]]\nname = \"idp\"\nissuer = \"https://idp.test\"\naudience = \"https://edgate.test\"\n\
         jwks = '{}'\nfor_issuer = \"test\"\n",
        idp.jwks()
    );
    Edgate::start_with("shards = 2", &transmitter)
}

fn post_as(address: SocketAddr, path: &str, kind: &str, body: &str) -> Response {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(address, request.as_bytes())
}

#[test]
fn an_identity_provider_ends_a_users_tokens_on_every_shard_and_for_good() {
    let idp = Issuer::new(9);
    let mut edgate = start(&idp);
    let token = edgate.issuer.token("one");
    assert_eq!(edgate.forward(&token).status, 200);
    let header = json!({"alg": "Ed25519", "typ": "secevent+jwt", "kid": idp.kid});
    let event = json!({
        "iss": "https://idp.test", "aud": "https://edgate.test", "iat": now(), "jti": "e-1",
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "agent-7"}, "events": {REVOKED: {}},
    });
    let push = |edgate: &Edgate, token: &str| {
        post_as(edgate.control, "/events/set", "application/secevent+jwt", token)
    };
    let forged = Issuer::new(8).sign_with(&header, &event);
    let answer = push(&edgate, &forged);
    assert_eq!((answer.status, &answer.json()["err"]), (400, &json!("authentication_failed")));
    assert_eq!(edgate.forward(&token).status, 200);

    let event = idp.sign_with(&header, &event);
    let answer = push(&edgate, &event);
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    for _ in 0..20 {
        assert_eq!(edgate.forward(&token).status, 401);
    }
    assert_eq!(edgate.refused("revoked"), 20.0);
    // An event is no access token.
    assert_eq!(edgate.forward(&event).status, 401);
    edgate.kill();
    edgate.restart();
    assert_eq!(edgate.forward(&token).status, 401);
    assert_eq!(push(&edgate, &event).status, 202, "what was accepted is acknowledged again");
}

#[test]
fn a_client_revokes_the_token_it_holds() {
    let edgate = Edgate::start_with("shards = 2", "");
    let (token, other) = (edgate.issuer.token("one"), edgate.issuer.token("two"));
    let form = "application/x-www-form-urlencoded";
    let forged = Issuer::new(8).sign_with(
        &json!({"alg": "Ed25519", "typ": "att+jwt", "kid": edgate.issuer.kid}),
        &Issuer::claims("one"),
    );
    for (text, left) in [(&forged, 200), (&token, 401)] {
        let answer = post_as(edgate.control, "/oauth/revoke", form, &format!("token={text}"));
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(edgate.forward(&token).status, left);
    }
    assert_eq!(edgate.forward(&other).status, 200);

    // Who follows the feed hears of it.
    let mut feed = TcpStream::connect(edgate.control).unwrap();
    feed.set_read_timeout(Some(PATIENCE)).unwrap();
    feed.write_all(b"GET /v1/revocations/feed HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: 0\r\n\r\n")
        .unwrap();
    let mut heard = String::new();
    while !heard.contains("\"name\":\"one\"") {
        let mut buffer = [0; 1024];
        let length = feed.read(&mut buffer).unwrap();
        assert!(length > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(heard.contains("id: 1\n"), "{heard}");
}

#[test]
fn an_issued_token_has_its_place_in_the_published_list() {
    let mut edgate = Edgate::start();
    let path = edgate.dir.path().join("edgate.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let uri = "https://own.test/v1/status-lists/7";
    let listed = format!("issuer = \"own\"\nstatus_list_uri = \"{uri}\"\nstatus_list_capacity = 1000\n");
    std::fs::write(&path, config.replacen("issuer = \"own\"\n", &listed, 1)).unwrap();
    edgate.kill();
    edgate.restart();
    let payload = |text: &str| BASE64URL.decode(text.split('.').nth(1).unwrap()).unwrap();
    let asked = json!({"agent_id": "a-1", "scope": ["orders.create"], "ttl": 120});
    let issued = edgate.post(edgate.control, "/v1/tokens", &asked).json();
    let token = issued["token"].as_str().unwrap();
    assert_eq!(edgate.forward(token).status, 200, "a place changes nothing about a token");
    let claims: Value = serde_json::from_slice(&payload(token)).unwrap();
    let place = &claims["status"]["status_list"];
    assert_eq!(place["uri"], uri);
    let index = place["idx"].as_u64().unwrap();

    let status = || {
        let answer = edgate.control_get("/v1/status-lists/7");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let document = Document::read(&payload(&answer.body)).unwrap();
        assert_eq!(document.uri, uri);
        document.list.status(index).unwrap()
    };
    assert_eq!(status(), Status::VALID);
    let id = issued["id"].as_str().unwrap();
    assert_eq!(edgate.post(edgate.control, &format!("/v1/tokens/{id}/revoke"), &json!({})).status, 200);
    until("the token is invalid on the list", || status() == Status::INVALID);
}

#[test]
fn a_token_with_a_place_in_its_issuers_list_is_refused_as_the_list_says() {
    let lists = tempfile::tempdir().unwrap();
    let prefix = format!("file://{}/", lists.path().display());
    let edgate = Edgate::start_more(&format!("status_list_prefix = \"{prefix}\"\n"));
    let token = |index: u64, uri: &str| {
        let mut claims = Issuer::claims(&format!("at-{index}"));
        claims["status"] = json!({"status_list": {"idx": index, "uri": uri}});
        edgate.issuer.sign(&claims)
    };
    let uri = format!("{prefix}1");
    // Nobody has the list yet: it cannot be told.
    assert_eq!(edgate.forward(&token(0, &uri)).status, 503);
    let publish = |name: &str, signer: &Issuer| {
        let mut list = StatusList::new(Bits::Two, 1000).unwrap();
        list.set(7, Status::INVALID).unwrap();
        list.set(8, Status::SUSPENDED).unwrap();
        let claims = json!({
            "sub": format!("{prefix}{name}"), "iat": now(), "exp": now() + 600, "ttl": 300,
            "status_list": {"bits": 2, "lst": list.encode().unwrap()},
        });
        let header = json!({"alg": "Ed25519", "typ": "statuslist+jwt", "kid": signer.kid});
        std::fs::write(lists.path().join(name), signer.sign_with(&header, &claims)).unwrap();
    };
    publish("1", &edgate.issuer);
    until("the list to be fetched", || edgate.forward(&token(0, &uri)).status == 200);
    let (revoked, disabled) = (edgate.refused("revoked"), edgate.refused("disabled"));
    assert_eq!(edgate.forward(&token(7, &uri)).status, 401);
    assert_eq!(edgate.forward(&token(8, &uri)).status, 401);
    assert_eq!((edgate.refused("revoked"), edgate.refused("disabled")), (revoked + 1.0, disabled + 1.0));
    // Outside of the list, elsewhere, and of another signer: none of them passes.
    assert_eq!(edgate.forward(&token(1_000_000, &uri)).status, 401);
    assert_eq!(edgate.forward(&token(0, "https://elsewhere.test/1")).status, 503);
    publish("2", &Issuer::new(8));
    let forged = format!("{prefix}2");
    assert_eq!(edgate.forward(&token(0, &forged)).status, 503);
    until("the forged list to be refused", || edgate.said().contains("no key of the name in kid"));
    assert_eq!(edgate.forward(&token(0, &forged)).status, 503);
    // A token without a place is not held to a list.
    assert_eq!(edgate.forward(&edgate.issuer.token("plain")).status, 200);
}

#[test]
fn a_place_that_lists_may_not_come_from_is_told_before_the_start() {
    let edgate = Edgate::start();
    let config = edgate.dir.path().join("edgate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text + "status_list_prefix = \"http://elsewhere.test/lists/\"\n").unwrap();
    let output = crate::support::edgate(&["check-config", config.to_str().unwrap()], b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("issuers.test.status_list_prefix") && said.contains("no place for lists"),
        "{said}"
    );
}
