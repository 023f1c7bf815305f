-- Whether the answer came from the cache; false of all rows of before, when there was none.
ALTER TABLE proxied_request_metrics
    ADD COLUMN cached bool NOT NULL DEFAULT false;
