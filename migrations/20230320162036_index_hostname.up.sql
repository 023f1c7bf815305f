-- One proxy serves several networks, each under its own name: every report filters by it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS proxied_request_metrics_hostname_idx
    ON proxied_request_metrics (hostname);
