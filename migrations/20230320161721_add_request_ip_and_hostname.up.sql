-- Who asked, and under which of our names. Unknown for the rows of before, so both may be null;
-- without a default the table is not rewritten.
ALTER TABLE proxied_request_metrics
    ADD COLUMN request_ip varchar,
    ADD COLUMN hostname   varchar;
