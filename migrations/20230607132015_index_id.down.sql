DROP INDEX CONCURRENTLY IF EXISTS proxied_request_metrics_id_idx;
