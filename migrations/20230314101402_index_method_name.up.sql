-- Latency and volume are asked for by method. Concurrently, here and in every index below:
-- the proxy goes on writing a row for each request while the index is built.
CREATE INDEX CONCURRENTLY IF NOT EXISTS proxied_request_metrics_method_name_idx
    ON proxied_request_metrics (method_name);
