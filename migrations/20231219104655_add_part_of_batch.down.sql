ALTER TABLE proxied_request_metrics
    DROP COLUMN part_of_batch;
