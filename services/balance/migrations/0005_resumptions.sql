-- Charge streams that stopped, and who let them go on.
create table stream_resumption (
  resumption_id bigint generated always as identity primary key,
  shard int not null,
  seq bigint not null,                      -- where the stream stood
  stopped_reason text not null,
  stopped_at timestamptz not null,
  resumed_at timestamptz not null,
  actor text not null,
  reason text not null
);

-- Batches that contradict what was posted under their number: kept, and never posted.
create table charge_set_aside (
  shard int not null,
  seq bigint not null,
  sha256 bytea not null,
  value bytea not null,
  arrived_at timestamptz not null,
  resumption_id bigint not null references stream_resumption,
  primary key (shard, seq, sha256)
);

do $$
declare name text;
begin
  foreach name in array array['stream_resumption', 'charge_set_aside'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

grant select, insert on stream_resumption, charge_set_aside to tollkeeper_app;
