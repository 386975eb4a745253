-- The keys that this node signs tokens with, or did. Times are Unix milliseconds; NULL: it has not come.
CREATE TABLE signing_keys (
    -- Of the issuer that this node signs for.
    tenant            TEXT   NOT NULL,
    -- The RFC 7638 thumbprint.
    kid               TEXT   NOT NULL,
    -- base64url, as x in a JWK.
    public_key        TEXT   NOT NULL,
    -- Where the private half is: the path of a file, or a PKCS#11 URI.
    place             TEXT   NOT NULL,
    -- draft, active, trusted, retired, destroyed.
    state             TEXT   NOT NULL,
    created           BIGINT NOT NULL,
    published         BIGINT,
    activated         BIGINT,
    stopped           BIGINT,
    retire_not_before BIGINT,
    retired           BIGINT,
    destroyed         BIGINT,
    backed_up         BIGINT,
    -- 1: takes over by itself as soon as it may.
    wanted            BIGINT NOT NULL,
    -- How long after its last signature it must verify, in milliseconds.
    verify_for        BIGINT NOT NULL,
    PRIMARY KEY (tenant, kid)
);

-- Keys that verify nothing here any more, whoever's they are, for good.
CREATE TABLE killed_keys (
    tenant    TEXT   NOT NULL,
    -- The iss of whose key it is.
    issuer    TEXT   NOT NULL,
    kid       TEXT   NOT NULL,
    killed_at BIGINT NOT NULL,
    authority TEXT   NOT NULL,
    reason    TEXT   NOT NULL,
    actor     TEXT   NOT NULL,
    PRIMARY KEY (tenant, issuer, kid)
);
