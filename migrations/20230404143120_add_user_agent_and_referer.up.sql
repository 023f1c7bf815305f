-- Which software asks, and from which page.
ALTER TABLE proxied_request_metrics
    ADD COLUMN user_agent varchar,
    ADD COLUMN referer    varchar;
