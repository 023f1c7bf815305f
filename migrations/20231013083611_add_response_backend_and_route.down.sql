ALTER TABLE proxied_request_metrics
    DROP COLUMN response_backend_route,
    DROP COLUMN response_backend;
