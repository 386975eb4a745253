//! nginx from the distribution, with `auth_request`, in front of a page.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Connection, Edgate, Issuer, PATIENCE, exchange, have, now};

/// A running nginx, stopped with its test.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(dir: &Path, edgate: SocketAddr) -> Self {
        // The port is free when chosen; nginx binds it a moment later.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = dir.join("page");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("index.html"), "the page\n").unwrap();
        let config = format!(
            "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log info;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n\
               access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n\
               uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
               upstream edgate {{ server {edgate}; keepalive 16; }}\n\
               server {{\n\
                 listen {address};\n\
                 location / {{\n\
                   auth_request /_edgate;\n\
                   auth_request_set $subject $upstream_http_x_auth_subject;\n\
                   add_header X-Seen-Subject $subject always;\n\
                   root {root};\n\
                 }}\n\
                 location /admin/ {{\n\
                   auth_request /_edgate_admin;\n\
                   alias {root}/;\n\
                 }}\n\
                 location = /_edgate {{\n\
                   internal; proxy_pass http://edgate/auth/nginx?audience=orders;\n\
                   proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                   proxy_pass_request_body off; proxy_set_header Content-Length \"\";\n\
                 }}\n\
                 location = /_edgate_admin {{\n\
                   internal; proxy_pass http://{edgate}/auth/nginx?scope=admin;\n\
                   proxy_pass_request_body off; proxy_set_header Content-Length \"\";\n\
                 }}\n\
               }}\n\
             }}\n",
            dir = dir.display(),
            root = root.display(),
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, config).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&path)
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(std::time::Instant::now() < until, "nginx did not start");
            std::thread::yield_now();
        }
        Self { child, address }
    }

    fn get(&self, path: &str, headers: &str) -> crate::support::Response {
        let request = format!("GET {path} HTTP/1.1\r\nHost: page.test\r\nConnection: close\r\n{headers}\r\n");
        exchange(self.address, request.as_bytes())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, not KILL: the master stops its worker.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_lets_only_good_tokens_see_the_page() {
    if !have("nginx") {
        return;
    }
    let edgate = Edgate::start();
    let nginx = Nginx::start(edgate.dir.path(), edgate.data);
    let issuer = &edgate.issuer;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let good = issuer.token("good");

    let page = nginx.get("/", &(bearer(&good) + "X-Auth-Subject: spoofed\r\n"));
    assert_eq!((page.status, page.body.as_str()), (200, "the page\n"));
    assert_eq!(page.header("x-seen-subject"), Some("agent-7"));

    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = Issuer::claims("j");
        change(&mut claims);
        issuer.sign(&claims)
    };
    let parts: Vec<&str> = good.split('.').collect();
    let other_payload = with(&|c| c["sub"] = json!("root"));
    let cases: Vec<(&str, String)> = vec![
        ("expired", with(&|c| c["exp"] = json!(now() - 60))),
        ("not_yet_valid", with(&|c| c["nbf"] = json!(now() + 300))),
        ("audience_mismatch", with(&|c| c["aud"] = json!("billing"))),
        ("issuer_mismatch", with(&|c| c["iss"] = json!("https://other.test"))),
        ("key_unknown", Issuer::new(2).token("j")),
        (
            "signature_mismatch",
            format!("{}.{}.{}", parts[0], other_payload.split('.').nth(1).unwrap(), parts[2]),
        ),
        (
            "signature_mismatch",
            format!("{}.{}.{}", parts[0], parts[1], other_payload.split('.').nth(2).unwrap()),
        ),
        ("algorithm_not_allowed", {
            let none = issuer.sign_with(
                &json!({"alg": "none", "typ": "att+jwt", "kid": issuer.kid}),
                &Issuer::claims("j"),
            );
            format!("{}.", none.rsplit_once('.').unwrap().0)
        }),
        ("revoked", {
            let token = issuer.token("revoked");
            let body = json!({"issuer": crate::support::ISSUER});
            assert_eq!(edgate.post(edgate.control, "/v1/tokens/revoked/revoke", &body).status, 200);
            token
        }),
    ];
    for (reason, token) in &cases {
        let before = edgate.refused(reason);
        let refused = nginx.get("/", &bearer(token));
        assert_eq!(refused.status, 401, "{reason}");
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{reason}: {challenge}");
        assert!(!refused.body.contains("the page"));
        assert_eq!(edgate.refused(reason) - before, 1.0, "{reason}");
    }

    let missing = nginx.get("/", "");
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer realm=\"edgate\"")));
    assert_eq!(edgate.refused("token_missing"), 1.0);
    let doubled = nginx.get("/", &(bearer(&good) + &bearer(&good)));
    assert!(
        matches!(doubled.status, 400 | 401),
        "nginx before 1.23 passes both on, later ones answer 400 themselves"
    );
    assert!(!doubled.body.contains("the page"));
    if doubled.status == 401 {
        assert_eq!(edgate.refused("authorization_repeated"), 1.0);
    }

    let forbidden = nginx.get("/admin/", &bearer(&good));
    assert_eq!(forbidden.status, 403);
    assert_eq!(edgate.refused("scope_missing"), 1.0);
    assert_eq!(nginx.get("/admin/", &bearer(&with(&|c| c["scope"] = json!("admin")))).status, 200);
}

#[test]
fn nginx_keeps_its_connection_through_denials() {
    if !have("nginx") {
        return;
    }
    let edgate = Edgate::start();
    let nginx = Nginx::start(edgate.dir.path(), edgate.data);
    let before = edgate.metric("connections_accepted_total");
    let mut client = Connection::open(nginx.address);
    for i in 0..20 {
        let token = if i % 2 == 0 { edgate.issuer.token("a") } else { "junk".to_owned() };
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n").as_bytes());
        assert_eq!(client.receive().unwrap().status, if i % 2 == 0 { 200 } else { 401 });
    }
    assert_eq!(
        edgate.metric("connections_accepted_total") - before,
        1.0,
        "an empty body keeps the connection"
    );
}
