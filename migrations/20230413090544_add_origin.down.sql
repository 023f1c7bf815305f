ALTER TABLE proxied_request_metrics
    DROP COLUMN origin;
