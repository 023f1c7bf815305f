-- The jobs that aggregate and delete go through the table in steps of id.
CREATE INDEX CONCURRENTLY IF NOT EXISTS proxied_request_metrics_id_idx
    ON proxied_request_metrics (id);
