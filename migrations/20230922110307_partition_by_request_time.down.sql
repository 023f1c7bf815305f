-- The way back, by the same steps: one plain table again, with all rows, its sequence, its owner,
-- its privileges and its indexes.
LOCK TABLE proxied_request_metrics IN ACCESS EXCLUSIVE MODE;

ALTER TABLE proxied_request_metrics RENAME TO proxied_request_metrics_partitioned;

CREATE TABLE proxied_request_metrics (
    LIKE proxied_request_metrics_partitioned INCLUDING ALL EXCLUDING INDEXES
);

DO $$
DECLARE
    old record;
    granted record;
BEGIN
    SELECT relowner, relacl INTO old
        FROM pg_class WHERE oid = 'proxied_request_metrics_partitioned'::regclass;
    IF old.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('ALTER TABLE proxied_request_metrics OWNER TO %I', pg_get_userbyid(old.relowner));
    END IF;
    FOR granted IN SELECT * FROM aclexplode(old.relacl) WHERE grantee <> old.relowner LOOP
        EXECUTE format('GRANT %s ON proxied_request_metrics TO %s %s',
            granted.privilege_type,
            CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END,
            CASE WHEN granted.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

ALTER SEQUENCE proxied_request_metrics_id_seq OWNED BY proxied_request_metrics.id;

INSERT INTO proxied_request_metrics SELECT * FROM proxied_request_metrics_partitioned;

-- Takes the partitions along, those made later included: their rows are copied already.
DROP TABLE proxied_request_metrics_partitioned;

CREATE INDEX proxied_request_metrics_method_name_idx  ON proxied_request_metrics (method_name);
CREATE INDEX proxied_request_metrics_block_number_idx ON proxied_request_metrics (block_number);
CREATE INDEX proxied_request_metrics_hostname_idx     ON proxied_request_metrics (hostname);
CREATE INDEX proxied_request_metrics_request_time_idx ON proxied_request_metrics (request_time);
CREATE INDEX proxied_request_metrics_id_idx           ON proxied_request_metrics (id);

ANALYZE proxied_request_metrics;
