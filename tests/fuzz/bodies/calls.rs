//! What a caller asks: the verify call and the forward-authentication query.

use edgate::decision::Rejection;
use edgate::json::{self, Reader};
use edgate::wire::{
    Connection, FORWARD_SCOPES_MAX, ForwardAuth, SCOPES_PER_CALL_MAX, TOKENS_PER_CALL_MAX, Terms, VerifyCall,
    VerifyCallError, error_json, parse_verify_call, write_forward_reply,
};
use serde_json::{Value, json};

/// A call means what a JSON library reads in it, and written again it is the same call.
pub fn verify_call(body: &[u8]) {
    let mut scratch = json::Scratch::default();
    let call = match parse_verify_call(body, &mut scratch) {
        Ok(call) => call,
        Err(error) => {
            let text = error_json("invalid_request", &error.to_string());
            let read = json::read(text.as_bytes(), &mut json::Scratch::default(), Reader::skip);
            read.expect("an answer is JSON, whatever the call was");
            assert!(text.len() < 1024, "an answer is not as long as the call: {}", text.len());
            if let (VerifyCallError::UnknownMember(name), Ok(value)) = (error, serde_json::from_slice(body)) {
                let value: Value = value;
                assert!(value.as_object().is_some_and(|call| call.keys().any(|key| key.starts_with(&name))));
            }
            return;
        }
    };
    assert!((1..=TOKENS_PER_CALL_MAX).contains(&call.tokens.len()));
    assert!(call.many || call.tokens.len() == 1);
    assert!(call.scopes.split(' ').count() <= SCOPES_PER_CALL_MAX);
    let value: Value = serde_json::from_slice(body).expect("what we accept is JSON");
    let tokens = if call.many { value["tokens"].clone() } else { json!([value["token"]]) };
    assert_eq!(json!(call.tokens), tokens);
    assert_eq!(call.audience, value["audience"].as_str());
    assert_eq!(call.claims, value["claims"] == true);
    let scopes = match &value["scope"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        text => text.as_str().unwrap_or("").to_owned(),
    };
    assert_eq!(call.scopes, scopes);

    let mut again = json!({"scope": call.scopes, "claims": call.claims});
    if call.many {
        again["tokens"] = json!(call.tokens);
    } else {
        again["token"] = json!(call.tokens[0]);
    }
    if let Some(audience) = call.audience {
        again["audience"] = json!(audience);
    }
    let again = again.to_string();
    let mut scratch = json::Scratch::default();
    let again = parse_verify_call(again.as_bytes(), &mut scratch).expect("a written call is a call");
    assert_eq!(parts(&call), parts(&again));
}

fn parts<'c>(call: &'c VerifyCall<'_>) -> (&'c [&'c str], bool, Option<&'c str>, &'c str, bool) {
    (&call.tokens, call.many, call.audience, &call.scopes, call.claims)
}

/// Demands are what the query says, each said once and none empty, and the reply that names them is one reply.
pub fn forward_auth(query: &[u8]) {
    // A query comes out of a parsed head, which is text.
    let Ok(query) = std::str::from_utf8(query) else { return };
    let demands = match ForwardAuth::parse(query) {
        Ok(demands) => demands,
        Err(message) => {
            assert!(message.len() < 256 && !message.contains(['\r', '\n']), "{message:?}");
            return;
        }
    };
    let said: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let said = |wanted: &str| -> Vec<&str> {
        said.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    // Said at most once, and saying something: an empty demand would be none.
    let scopes = Some(&*demands.scopes).filter(|scopes| !scopes.is_empty());
    assert_eq!(
        said("audience"),
        Vec::from_iter(demands.audience.as_deref().filter(|audience| !audience.is_empty()))
    );
    assert_eq!(said("scope"), Vec::from_iter(scopes));
    assert!(demands.scopes.split(' ').count() <= FORWARD_SCOPES_MAX);

    let mut written = form_urlencoded::Serializer::new(String::new());
    if let Some(audience) = &demands.audience {
        written.append_pair("audience", audience);
    }
    if let Some(scopes) = scopes {
        written.append_pair("scope", scopes);
    }
    let written = written.finish();
    let again = ForwardAuth::parse(&written).expect("a written query is a query");
    assert_eq!((&again.audience, &again.scopes), (&demands.audience, &demands.scopes));

    let mut reply = Vec::new();
    write_forward_reply(
        &mut reply,
        &Err(Rejection::ScopeMissing),
        &demands.scopes,
        "id",
        Terms::default(),
        Connection::KeepAlive,
    );
    let challenge = super::token::reply_headers(&reply, 403);
    let challenge =
        challenge.iter().find(|(name, _)| name == "WWW-Authenticate").map(|(_, value)| value.as_str());
    let named =
        challenge.and_then(|text| text.split_once(", scope=\"")).expect("the missing scope is named").1;
    let named = named.strip_suffix('"').expect("the challenge ends with the scope");
    assert!(!named.contains(['"', '\\']), "a quoted-string would end early or late: {named:?}");
}
