-- Promotional credit pays for use by its time, not by that of posting: what metering says of both is kept.

-- Up to where metering has charged all resources of the shard with what is posted; null: it never said so.
alter table charge_stream add column charged_through timestamptz;
-- Every slot that the batch charges begins in [used_from, used_until); null: it does not say.
alter table evidence add column used_from timestamptz, add column used_until timestamptz;
