ALTER TABLE proxied_request_metrics
    DROP COLUMN hostname,
    DROP COLUMN request_ip;
