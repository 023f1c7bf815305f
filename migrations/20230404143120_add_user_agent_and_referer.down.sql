ALTER TABLE proxied_request_metrics
    DROP COLUMN referer,
    DROP COLUMN user_agent;
