-- How far behind the chain's head do clients ask? Decides what a cache is worth.
CREATE INDEX CONCURRENTLY IF NOT EXISTS proxied_request_metrics_block_number_idx
    ON proxied_request_metrics (block_number);
