-- Security Event Tokens that were accepted, so that none is twice. Times are Unix seconds.
CREATE TABLE security_events (
    tenant      TEXT   NOT NULL,
    -- The transmitter's iss.
    transmitter TEXT   NOT NULL,
    jti         TEXT   NOT NULL,
    -- The user it disabled or enabled, and when that happened; '' and 0 for any other.
    subject     TEXT   NOT NULL,
    switched_at BIGINT NOT NULL,
    -- From this second on it would be refused as too old.
    forget_at   BIGINT NOT NULL,
    PRIMARY KEY (tenant, transmitter, jti)
);
CREATE INDEX security_events_by_subject ON security_events (tenant, transmitter, subject, switched_at);
CREATE INDEX security_events_by_forgetting ON security_events (forget_at);

-- The feed of revocations goes on from an epoch.
CREATE INDEX changes_by_epoch ON changes (epoch, tenant, kind, issuer, name, switched);
