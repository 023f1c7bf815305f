-- Old metrics are to be dropped a day at a time: dropping a partition takes milliseconds and leaves
-- no dead rows behind, while deleting a day keeps VACUUM busy for hours.
--
-- All of it is one transaction, so the proxy's writes wait until the rows are copied. The better
-- way for a table of many gigabytes is to attach the old table as the first partition, which copies
-- nothing; its price is that not one row may be younger than the day where that partition ends,
-- while this step takes whatever rows there are.

-- At once in the strongest mode that is needed below: nothing can be written to the old table after
-- it was copied, and no lock has to be raised later, which could end in a deadlock.
LOCK TABLE proxied_request_metrics IN ACCESS EXCLUSIVE MODE;

ALTER TABLE proxied_request_metrics RENAME TO proxied_request_metrics_unpartitioned;

-- LIKE, so that every column stays what it is, in the same order. The default of id comes along:
-- the new table goes on with the same sequence.
CREATE TABLE proxied_request_metrics (
    LIKE proxied_request_metrics_unpartitioned INCLUDING ALL EXCLUDING INDEXES
) PARTITION BY RANGE (request_time);

CREATE TABLE proxied_request_metrics_before_20230923
    PARTITION OF proxied_request_metrics
    FOR VALUES FROM (MINVALUE) TO ('2023-09-23');

-- Six weeks of days, up to and including 2023-11-03.
DO $$
DECLARE
    day date;
BEGIN
    FOR day IN SELECT generate_series(
            timestamp '2023-09-23', timestamp '2023-11-03', interval '1 day') LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF proxied_request_metrics FOR VALUES FROM (%L) TO (%L)',
            'proxied_request_metrics_' || to_char(day, 'YYYYMMDD'), day, day + 1);
    END LOOP;
END
$$;

-- Whatever no day was made for is still taken. Make the days ahead, so that this one stays empty:
-- a new partition has to look through it.
CREATE TABLE proxied_request_metrics_default
    PARTITION OF proxied_request_metrics DEFAULT;

-- The new table and its partitions belong to whom the old one belonged, and the same roles may use
-- it: a dashboard must not lose its SELECT. The owner comes first, since a sequence can only be
-- owned by a table of its own owner.
DO $$
DECLARE
    old record;
    part regclass;
    granted record;
BEGIN
    SELECT relowner, relacl INTO old
        FROM pg_class WHERE oid = 'proxied_request_metrics_unpartitioned'::regclass;
    IF old.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user) THEN
        FOR part IN SELECT relid FROM pg_partition_tree('proxied_request_metrics') LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO %I', part, pg_get_userbyid(old.relowner));
        END LOOP;
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

INSERT INTO proxied_request_metrics SELECT * FROM proxied_request_metrics_unpartitioned;

-- Frees the names of the indexes, too. Without CASCADE: a view on the old table stops us here,
-- with everything as it was.
DROP TABLE proxied_request_metrics_unpartitioned;

-- Last, since building an index at once is faster than adding row after row to it. Each becomes an
-- index on every partition, those that are yet to come included.
CREATE INDEX proxied_request_metrics_method_name_idx  ON proxied_request_metrics (method_name);
CREATE INDEX proxied_request_metrics_block_number_idx ON proxied_request_metrics (block_number);
CREATE INDEX proxied_request_metrics_hostname_idx     ON proxied_request_metrics (hostname);
CREATE INDEX proxied_request_metrics_request_time_idx ON proxied_request_metrics (request_time);
CREATE INDEX proxied_request_metrics_id_idx           ON proxied_request_metrics (id);

-- Autovacuum never analyzes a partitioned table itself, only its partitions.
ANALYZE proxied_request_metrics;
