-- Browsers that send no Referer still send an Origin.
ALTER TABLE proxied_request_metrics
    ADD COLUMN origin varchar;
