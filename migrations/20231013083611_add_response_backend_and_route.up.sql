-- Which of the nodes behind the proxy answered, and at what address. Before there was a choice it
-- was always the default one, so that is true of the old rows, too. A constant default is kept in
-- the catalog: no partition is rewritten.
ALTER TABLE proxied_request_metrics
    ADD COLUMN response_backend       varchar DEFAULT 'DEFAULT',
    ADD COLUMN response_backend_route varchar;
