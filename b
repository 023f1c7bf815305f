2026-11-25T17:51:45Z INFO  the history is public.bun_migrations, created where it was absent
2026-11-25T17:51:45Z INFO  1/13 applying 20230314095813_create_proxied_request_metrics.up.sql
2026-11-25T17:51:45Z INFO  1/13 applied 20230314095813_create_proxied_request_metrics.up.sql in 5.9 ms
2026-11-25T17:51:45Z INFO  2/13 applying 20230314101402_index_method_name.up.sql
2026-11-25T17:51:45Z INFO  2/13 applied 20230314101402_index_method_name.up.sql in 22.9 ms
2026-11-25T17:51:45Z INFO  3/13 applying 20230314101527_index_block_number.up.sql
2026-11-25T17:51:45Z INFO  3/13 applied 20230314101527_index_block_number.up.sql in 16.9 ms
2026-11-25T17:51:45Z INFO  4/13 applying 20230320161721_add_request_ip_and_hostname.up.sql
2026-11-25T17:51:45Z INFO  4/13 applied 20230320161721_add_request_ip_and_hostname.up.sql in 3.0 ms
2026-11-25T17:51:45Z INFO  5/13 applying 20230320162036_index_hostname.up.sql
2026-11-25T17:51:45Z INFO  5/13 applied 20230320162036_index_hostname.up.sql in 16.1 ms
2026-11-25T17:51:45Z INFO  6/13 applying 20230404143120_add_user_agent_and_referer.up.sql
2026-11-25T17:51:45Z INFO  6/13 applied 20230404143120_add_user_agent_and_referer.up.sql in 3.1 ms
2026-11-25T17:51:45Z INFO  7/13 applying 20230413090544_add_origin.up.sql
2026-11-25T17:51:45Z INFO  7/13 applied 20230413090544_add_origin.up.sql in 2.9 ms
2026-11-25T17:51:45Z INFO  8/13 applying 20230607131802_index_request_time.up.sql
2026-11-25T17:51:45Z INFO  8/13 applied 20230607131802_index_request_time.up.sql in 16.5 ms
2026-11-25T17:51:45Z INFO  9/13 applying 20230607132015_index_id.up.sql
2026-11-25T17:51:45Z INFO  9/13 applied 20230607132015_index_id.up.sql in 15.7 ms
2026-11-25T17:51:45Z INFO  10/13 applying 20230922110307_partition_by_request_time.up.sql
2026-11-25T17:51:46Z INFO  10/13 applied 20230922110307_partition_by_request_time.up.sql in 184.5 ms
2026-11-25T17:51:46Z INFO  11/13 applying 20231013083611_add_response_backend_and_route.up.sql
2026-11-25T17:51:46Z INFO  11/13 applied 20231013083611_add_response_backend_and_route.up.sql in 18.7 ms
2026-11-25T17:51:46Z INFO  12/13 applying 20231107151249_add_cached.up.sql
2026-11-25T17:51:46Z INFO  12/13 applied 20231107151249_add_cached.up.sql in 14.6 ms
2026-11-25T17:51:46Z INFO  13/13 applying 20231219104655_add_part_of_batch.up.sql
2026-11-25T17:51:46Z INFO  13/13 applied 20231219104655_add_part_of_batch.up.sql in 15.7 ms
2026-11-25T17:51:46Z INFO  the database is up to date: 13 migrations, 13 applied now
