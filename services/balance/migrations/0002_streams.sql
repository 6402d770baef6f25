-- Charge streams: where each stands, what waits in it, and what operators decided where it stopped.

-- Where each shard's charge stream stands. Its row is the fence of posting.
create table charge_stream (
  shard int primary key,
  seq bigint not null default 0,            -- last posted
  stopped_seq bigint,                       -- the batch that it stopped at
  stopped_reason text,
  stopped_at timestamptz,
  check (num_nonnulls(stopped_seq, stopped_reason, stopped_at) in (0, 3))
) with (fillfactor = 50);

-- What came after a gap or while its stream was stopped.
create table charge_waiting (
  shard int not null,
  seq bigint not null,
  sha256 bytea not null,
  value bytea not null,
  arrived_at timestamptz not null,
  primary key (shard, seq, sha256)
);

-- How often the batch that a stream waits for was asked for again.
create table charge_gap (
  shard int primary key,
  from_seq bigint not null,
  asked int not null,
  asked_at timestamptz not null
);

create table stream_decision (
  decision_id bigint generated always as identity primary key,
  shard int not null,
  kind text not null check (kind in ('resumed', 'mended', 'skipped')),
  seq bigint not null,                      -- the batch that the stream stopped at, or waited for
  stopped_reason text not null,
  actor text not null,
  reason text not null,
  sha256 bytea,                             -- of what is posted in the batch's stead
  would_post text,                          -- what a skipped batch would have posted, as JSON
  decided_at timestamptz not null
);

-- Batches that were decided against: kept, and never posted.
create table charge_set_aside (
  shard int not null,
  seq bigint not null,
  sha256 bytea not null,
  value bytea not null,
  arrived_at timestamptz not null,
  decision_id bigint not null references stream_decision,
  primary key (shard, seq, sha256)
);

-- Up to where a shard's hours are written: evidence up to `seq`, hours before `through`.
create table hour_head (
  shard int primary key,
  seq bigint not null default 0,
  through timestamptz not null default '1970-01-01 00:00:00+00'
);

do $$
declare name text;
begin
  foreach name in array array['stream_decision', 'charge_set_aside'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

grant select, insert, update on charge_stream, hour_head to tollkeeper_app;
grant select, insert, delete on charge_waiting to tollkeeper_app;
grant select, insert, update, delete on charge_gap to tollkeeper_app;
grant select, insert on stream_decision, charge_set_aside to tollkeeper_app;
