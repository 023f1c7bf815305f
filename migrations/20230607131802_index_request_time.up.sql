-- Every report has a period, and old rows are deleted by their time.
CREATE INDEX CONCURRENTLY IF NOT EXISTS proxied_request_metrics_request_time_idx
    ON proxied_request_metrics (request_time);
