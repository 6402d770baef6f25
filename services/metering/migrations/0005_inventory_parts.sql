-- Pages are kept by shard: comparing one shard reads what concerns it and no more, whatever the listing's size.
create table inventory_part (
  region text not null,
  source text not null,
  snapshot text not null,
  shard int not null,
  page int not null,
  items bytea not null,
  primary key (region, source, snapshot, shard, page)
);

grant select, insert, delete on inventory_part to tollkeeper_app;

-- A listing that is half compared can't be gone on with: the source's next one is compared in its place.
delete from inventory_page;
update inventory_source set next_shard = 2147483647;
alter table inventory_page drop column body;
