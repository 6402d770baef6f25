-- What every service needs to meet the others on Kafka: consumed positions, dead letters, the outbox.

create function ensure_day_partitions(parent text, first_day date, last_day date) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  day date;
  name text;
begin
  if parent not in (select relname from pg_class where relkind = 'p' and relnamespace = 'public'::regnamespace) then
    raise exception 'no partitioned table %', parent;
  end if;
  for day in select generate_series(first_day, last_day, interval '1 day')::date loop
    name := parent || '_' || to_char(day, 'YYYYMMDD');
    if to_regclass('public.' || name) is null then
      perform pg_advisory_xact_lock(hashtext('partition'));
      execute format('create table if not exists %I partition of %I for values from (%L) to (%L)', name, parent, day, day + 1);
    end if;
  end loop;
end $$;

create function drop_day_partitions(parent text, before_day date) returns setof text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  child record;
  unpublished boolean;
begin
  if parent not in ('outbox') then
    raise exception 'partitions of % are kept', parent;
  end if;
  for child in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = ('public.' || parent)::regclass and c.relname ~ '_\d{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') < before_day
  loop
    execute format(
      'select exists (select from %I o join outbox_cursor h using (stream) where o.seq > h.published_seq)', child.relname
    ) into unpublished;
    continue when unpublished;
    execute format('drop table %I', child.relname);
    return next child.relname;
  end loop;
end $$;

-- Offsets live in the transaction that holds their effect. A topic is its id: a topic made anew starts anew.
create table consumer_offset (
  topic text not null,
  topic_id uuid not null,
  partition int not null,
  next_offset bigint not null,
  primary key (topic, topic_id, partition)
);

-- A record that can't be understood: kept with its bytes, never dropped, brought back by replay.
create table dead_letter (
  dead_id text primary key,           -- topic/partition/offset, prefixed by the topic's id
  topic text not null,
  partition int not null,
  record_offset bigint not null,
  reason text not null,
  detail text not null,
  key bytea,
  value bytea,
  headers jsonb not null default '[]',
  died_at timestamptz not null,
  replayed_at timestamptz,
  replays int not null default 0
);
create index dead_letter_open on dead_letter (died_at) where replayed_at is null;

-- Append-only messages to publish; `seq` is contiguous per stream, because the stream's head row is locked to take one.
create table outbox (
  day date not null,
  stream int not null,
  seq bigint not null,
  topic text not null,
  key bytea,
  value bytea not null,
  content_type text not null,
  primary key (stream, seq, day)
) partition by range (day);

-- Appenders lock heads, the relay moves cursors: rows apart, so that they never wait for one another.
create table outbox_head (
  stream int primary key,
  seq bigint not null                       -- last appended
);
create table outbox_cursor (
  stream int primary key,
  published_seq bigint not null default 0   -- last acknowledged by the broker; moving it back sends again
);
-- Where a service keeps the last sequence number of a stream in a row of its own, its migration widens this view.
create view stream_head as select stream, seq from outbox_head;

create table topic_layout (
  topic text primary key,
  partitions int not null
);

grant select, insert, update on consumer_offset, dead_letter, outbox_head, outbox_cursor, topic_layout to tollkeeper_app;
grant select, insert on outbox to tollkeeper_app;
grant select on migration, stream_head to tollkeeper_app;
grant execute on function ensure_day_partitions, drop_day_partitions to tollkeeper_app;
