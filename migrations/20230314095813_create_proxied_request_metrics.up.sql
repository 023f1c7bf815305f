-- One row for each request that the proxy has answered.
--
-- No primary key: rows are only ever appended and aggregated, and once the table is
-- partitioned a key would have to contain the partition key, and would say nothing.
CREATE TABLE proxied_request_metrics (
    id                            bigserial,
    method_name                   varchar   NOT NULL,
    block_number                  bigint,
    response_latency_milliseconds int,
    request_time                  timestamp NOT NULL
);
