-- Up to where a topic is known to hold what this database published: what lies beyond, a restored database does not know.
create table published_offset (
  topic text not null,
  partition int not null,
  next_offset bigint not null,
  primary key (topic, partition)
);

grant select, insert, update on published_offset to tollkeeper_app;
