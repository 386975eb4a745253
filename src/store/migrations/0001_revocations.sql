-- Tokens revoked before their time. Times are Unix seconds.
CREATE TABLE revocations (
    tenant     TEXT   NOT NULL,
    issuer     TEXT   NOT NULL,
    jti        TEXT   NOT NULL,
    -- From this second on the token is refused as expired anyway: its exp plus the issuer's leeway.
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    PRIMARY KEY (tenant, issuer, jti)
);

CREATE INDEX revocations_by_expiry ON revocations (expires_at);
