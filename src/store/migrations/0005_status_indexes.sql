-- The places in status lists that issued tokens have. Times are Unix seconds.
CREATE TABLE status_indexes (
    tenant    TEXT   NOT NULL,
    -- The list's uri.
    uri       TEXT   NOT NULL,
    idx       BIGINT NOT NULL,
    -- What of the token revocation goes by.
    issuer    TEXT   NOT NULL,
    kid       TEXT   NOT NULL,
    jti       TEXT   NOT NULL,
    subject   TEXT   NOT NULL,
    issued_at BIGINT NOT NULL,
    -- From this second on the token is refused as expired, and the place can be given to another.
    forget_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, uri, idx)
);
CREATE INDEX status_indexes_by_forgetting ON status_indexes (forget_at);
