DROP TABLE proxied_request_metrics;
