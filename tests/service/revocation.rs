//! Revocation on one node, from outside.

use serde_json::{Value, json};

use crate::support::{Connection, Edgate, ISSUER, Issuer, now};

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = Issuer::claims("j");
    change(&mut claims);
    claims
}

#[test]
fn whatever_a_token_depends_on_can_be_revoked_and_the_reason_is_told_apart() {
    let edgate = Edgate::start();
    let kid = edgate.issuer.kid.clone();
    let token = edgate.issuer.sign(&with(|claims| claims["sid"] = json!("session-1")));
    assert_eq!(edgate.forward(&token).status, 200);
    let of_issuer = |kind: &str, name: &str, action: &str| json!({"kind": kind, "name": name, "issuer": ISSUER, "action": action, "reason": "a test"});
    for (on, off) in [
        (of_issuer("subject", "agent-7", "disable"), of_issuer("subject", "agent-7", "enable")),
        (of_issuer("kid", &kid, "disable"), of_issuer("kid", &kid, "enable")),
        (
            json!({"kind": "issuer", "issuer": ISSUER, "action": "disable"}),
            json!({"kind": "issuer", "issuer": ISSUER, "action": "enable"}),
        ),
        (
            json!({"kind": "tenant", "tenant": "acme", "action": "disable"}),
            json!({"kind": "tenant", "tenant": "acme", "action": "enable"}),
        ),
    ] {
        let before = edgate.refused("disabled");
        edgate.revoke(&on);
        let refused = edgate.forward(&token);
        assert_eq!(refused.status, 401, "{on}");
        assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
        assert_eq!(edgate.refused("disabled"), before + 1.0);
        edgate.revoke(&off);
        assert_eq!(edgate.forward(&token).status, 200, "{off}");
    }
    // A watermark refuses what was issued until now and nothing that is issued later.
    let before = edgate.refused("revoked");
    edgate.revoke(&of_issuer("session", "session-1", "revoke"));
    assert_eq!(edgate.forward(&token).status, 401);
    assert_eq!(edgate.refused("revoked"), before + 1.0);
    let later = edgate.issuer.sign(&with(|claims| {
        claims["sid"] = json!("session-1");
        claims["iat"] = json!(now() + 2);
    }));
    assert_eq!(edgate.forward(&later).status, 200);
    // What is revoked stays revoked.
    edgate.revoke(&of_issuer("kid", &kid, "revoke"));
    edgate.revoke(&of_issuer("kid", &kid, "enable"));
    assert_eq!(edgate.forward(&later).status, 401);
}

#[test]
fn a_restart_forgets_nothing_and_the_epoch_goes_on() {
    let mut edgate = Edgate::start();
    let of_subject = edgate.issuer.sign(&with(|claims| claims["sub"] = json!("agent-8")));
    let first = edgate.revoke(&json!({"kind": "token", "name": "gone", "issuer": ISSUER}));
    let second = edgate.revoke(&json!({"revocations": [
        {"kind": "subject", "name": "agent-8", "issuer": ISSUER},
        {"kind": "tenant", "tenant": "default", "action": "disable"},
    ]}));
    assert!(second > first);
    edgate.kill();
    edgate.restart();
    assert_eq!(edgate.forward(&edgate.issuer.token("gone")).status, 401);
    assert_eq!(edgate.forward(&of_subject).status, 401);
    assert_eq!(edgate.forward(&edgate.issuer.token("kept")).status, 200);
    let answer = edgate.forward_at(&edgate.issuer.token("kept"), second);
    assert_eq!((answer.status, answer.header("x-edgate-epoch")), (200, Some(second.to_string().as_str())));
    let third = edgate.revoke(&json!({"kind": "token", "name": "other", "issuer": ISSUER}));
    assert!(third > second);
    let status = edgate.control_get("/v1/revocations/status").json();
    assert_eq!((&status["epoch"], &status["age_ms"]), (&json!(third), &json!(0)));
    let list = edgate.control_get("/v1/revocations?tenant=acme").json();
    let names: Vec<&str> =
        list["revocations"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "agent-8", "gone"]);
}

#[test]
fn one_bad_item_of_many_is_named_and_nothing_is_changed() {
    let edgate = Edgate::start();
    let good = json!({"kind": "subject", "name": "agent-7", "issuer": ISSUER});
    for (bad, problem) in [
        (json!({"kind": "subject", "name": "a", "issuer": "https://nobody.test"}), "is not configured"),
        (json!({"kind": "subject", "name": "a", "issuer": ISSUER, "tenant": "default"}), "of tenant"),
        (
            json!({"kind": "subject", "name": "a", "issuer": ISSUER, "issued_until": now() + 60}),
            "in the future",
        ),
        (json!({"kind": "subject", "name": "a", "issuer": ISSUER, "issued_until": 1}), "has expired"),
        (json!({"kind": "token", "name": "a", "issuer": ISSUER, "expires_at": 1}), "in the past"),
        (
            json!({"kind": "token", "name": "a", "issuer": ISSUER, "expires_at": now() + 1_000_000}),
            "later than",
        ),
        (json!({"kind": "token", "name": "", "issuer": ISSUER}), "is empty"),
        (json!({"kind": "token", "name": "a", "issuer": ISSUER, "action": "disable"}), "cannot be disabled"),
        (json!({"kind": "session", "issuer": ISSUER}), "is missing: the sid"),
        (json!({"kind": "tenant"}), "\"tenant\" is missing"),
        (json!({"kind": "tenant", "tenant": "nobody"}), "no configured issuer"),
        (json!({"kind": "issuer"}), "\"issuer\" is missing"),
        (json!({"kind": "planet", "name": "a"}), "is unknown"),
        (json!({"kind": "kid", "name": "a", "issuer": ISSUER, "expires_at": 1}), "is a token's"),
        (json!({"name": "a"}), "\"kind\" is missing"),
    ] {
        let body = json!({"revocations": [good, bad]});
        let answer = edgate.post(edgate.control, "/v1/revocations", &body);
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        let description = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert!(description.starts_with("revocations[1]: "), "{description}");
        assert!(description.contains(problem), "{bad}: {description}");
        assert!(description.ends_with("; nothing was changed"), "{description}");
    }
    let many: Vec<Value> = (0..257).map(|_| good.clone()).collect();
    let answer = edgate.post(edgate.control, "/v1/revocations", &json!({"revocations": many}));
    assert!(answer.body.contains("more than 256"), "{}", answer.body);
    assert_eq!(edgate.forward(&edgate.issuer.token("j")).status, 200);
    assert_eq!(edgate.control_get("/v1/revocations").json()["revocations"], json!([]));
}

#[test]
fn a_question_waits_for_the_epoch_it_demands_and_holds_nobody_else_up() {
    let edgate = Edgate::start_more("[revocation]\nepoch_wait_ms = 10000\n");
    let token = edgate.issuer.token("j");
    let epoch = edgate.forward_at(&token, 0).header("x-edgate-epoch").unwrap().parse::<u64>().unwrap();
    let mut waiting = Connection::open(edgate.data);
    let request = format!(
        "GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\nX-Edgate-Min-Epoch: {}\r\n\r\n\
         GET /auth/nginx HTTP/1.1\r\nHost: t\r\n\r\n",
        epoch + 1
    );
    waiting.send(request.as_bytes());
    // Others are answered meanwhile.
    assert_eq!(edgate.forward(&token).status, 200);
    edgate.revoke(&json!({"kind": "token", "name": "j", "issuer": ISSUER}));
    let answer = waiting.receive().unwrap();
    assert_eq!(answer.status, 401, "it was decided after the revocation it waited for");
    assert_eq!(answer.header("x-edgate-epoch"), Some((epoch + 1).to_string().as_str()));
    // The answers of one connection keep their order.
    assert_eq!(waiting.receive().unwrap().header("www-authenticate"), Some("Bearer realm=\"edgate\""));
}

#[test]
fn an_epoch_that_does_not_come_is_refused_by_name() {
    let edgate = Edgate::start_more("[revocation]\nepoch_wait_ms = 0\n");
    let answer = edgate.forward_at(&edgate.issuer.token("j"), 1_000_000);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(edgate.refused("revocation_unknown"), 1.0);
    let answer = edgate.get("/auth/nginx", "X-Edgate-Min-Epoch: latest\r\n");
    assert_eq!(answer.status, 400);
}

#[test]
fn a_token_of_an_issuer_with_an_allow_list_passes_only_if_it_was_issued_here() {
    let edgate = Edgate::start_more("allow_list = true\n");
    let answer = edgate.forward(&edgate.issuer.token("j"));
    assert_eq!(answer.status, 401);
    assert_eq!(edgate.refused("not_listed"), 1.0);
    let unnamed = with(|claims| drop(claims.as_object_mut().unwrap().remove("jti")));
    assert_eq!(edgate.forward(&edgate.issuer.sign(&unnamed)).status, 401);
}

#[test]
fn of_many_presentations_at_once_of_a_token_for_single_use_one_is_accepted() {
    let mut edgate = Edgate::start_more("single_use = true\n");
    let tokens: Vec<String> = (0..40).map(|i| edgate.issuer.token(&format!("once-{}", i % 4))).collect();
    let answers = edgate.verify(&json!({"tokens": tokens})).json();
    let valid = answers["results"].as_array().unwrap().iter().filter(|one| one["valid"] == true).count();
    assert_eq!(valid, 4);
    let data = edgate.data;
    let token = edgate.issuer.token("raced");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let request =
                format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
            std::thread::spawn(move || {
                let mut connection = Connection::open(data);
                let mut accepted = 0;
                for _ in 0..10 {
                    connection.send(request.as_bytes());
                    accepted += usize::from(connection.receive().unwrap().status == 200);
                }
                accepted
            })
        })
        .collect();
    let accepted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(accepted, 1);
    assert_eq!(edgate.refused("replayed"), 36.0 + 79.0);
    // A used token is used after a crash too.
    edgate.kill();
    edgate.restart();
    assert_eq!(edgate.forward(&token).status, 401);
}

#[test]
fn an_acceptance_says_how_long_a_proxy_may_keep_it_where_that_is_wanted() {
    let edgate = Edgate::start();
    assert_eq!(edgate.forward(&edgate.issuer.token("j")).header("cache-control"), None);
    let edgate = Edgate::start_more("[revocation]\ncache_s = 5\n");
    let token = edgate.issuer.token("j");
    assert_eq!(edgate.forward(&token).header("cache-control"), Some("private, max-age=5"));
    let short = edgate.issuer.sign(&with(|claims| claims["exp"] = json!(now() + 2)));
    let kept = edgate.forward(&short);
    let max_age = kept.header("cache-control").unwrap().strip_prefix("private, max-age=").unwrap();
    assert!(max_age.parse::<u64>().unwrap() <= 2, "{max_age}");
    assert_eq!(edgate.forward("x").header("cache-control"), Some("no-store"));
}
