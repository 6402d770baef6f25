-- No query used it: what may still be charged is found by shard. It cost every event a write.
drop index resource_open;
