-- Everything that can be revoked, in one table. Times are Unix seconds.
CREATE TABLE changes (
    tenant     TEXT   NOT NULL,
    -- token, subject, session, kid, issuer, tenant
    kind       TEXT   NOT NULL,
    -- The iss; empty for a tenant.
    issuer     TEXT   NOT NULL,
    -- The jti, sub, sid or kid; empty for an issuer or a tenant.
    name       TEXT   NOT NULL,
    -- refused_until (a token), issued_until (a subject, a session), enabled, disabled, revoked
    effect     TEXT   NOT NULL,
    -- The second of the first two effects; 0 for the others.
    second     BIGINT NOT NULL,
    -- From this second on the row says nothing any more.
    forget_at  BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    -- The revocation epoch the change made.
    epoch      BIGINT NOT NULL,
    -- Whether Redis is known to have it; 0 on a node without Redis.
    published  BIGINT NOT NULL,
    -- A subject has a watermark and a switch, which do not replace each other.
    switched   BIGINT NOT NULL,
    PRIMARY KEY (tenant, kind, issuer, name, switched)
);

INSERT INTO changes
    SELECT tenant, 'token', issuer, jti, 'refused_until', expires_at, expires_at, revoked_at, reason, actor, 0, 0, 0
    FROM revocations;
DROP TABLE revocations;

CREATE INDEX changes_by_forgetting ON changes (forget_at);
CREATE INDEX changes_unpublished ON changes (published, epoch);

-- One row: the highest epoch this node gave out or saw. It never goes back, so that a caller may compare.
CREATE TABLE revocation_epoch (
    tenant TEXT   NOT NULL,
    epoch  BIGINT NOT NULL,
    PRIMARY KEY (tenant)
);
INSERT INTO revocation_epoch VALUES ('', 0);

-- Tokens that may pass where their issuer has an allow list, and tokens used where they may be used once.
CREATE TABLE nonces (
    tenant     TEXT   NOT NULL,
    issuer     TEXT   NOT NULL,
    jti        TEXT   NOT NULL,
    -- listed, used
    state      TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, issuer, jti, state)
);
CREATE INDEX nonces_by_expiry ON nonces (expires_at);
