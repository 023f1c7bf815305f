-- Whether the request came in a batch; false of all rows of before, when each came alone.
ALTER TABLE proxied_request_metrics
    ADD COLUMN part_of_batch bool NOT NULL DEFAULT false;
