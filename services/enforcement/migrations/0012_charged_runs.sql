-- Runs that are to stop by metering's word alone: it charges an account for them, and our own books lack them. What is
-- heard of their containers neither confirms nor ends such a request; metering and the account's recovery do.
alter table stop_request add column metering_only boolean not null default false;
create index stop_request_metering_only on stop_request (region, tenant_id) where ended_at is null and metering_only;
