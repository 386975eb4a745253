-- The delegations of keys that lived, or live, in this node's memory: what the JWKS lists until they end.
CREATE TABLE delegations (
    -- Of the issuer that this node signs for.
    tenant       TEXT   NOT NULL,
    -- The RFC 7638 thumbprint of the delegated key.
    kid          TEXT   NOT NULL,
    -- base64url, as x in a JWK.
    public_key   TEXT   NOT NULL,
    -- The kid of the key that signed the delegation.
    certified_by TEXT   NOT NULL,
    -- The compact JWS itself.
    delegation   TEXT   NOT NULL,
    -- iat and exp of the delegation, Unix seconds.
    issued_at    BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    -- Unix milliseconds.
    published    BIGINT NOT NULL,
    PRIMARY KEY (tenant, kid)
);

-- Of a token that a delegated key signs, the key that delegated to it: either may be revoked.
ALTER TABLE status_indexes ADD COLUMN certified_by TEXT;
