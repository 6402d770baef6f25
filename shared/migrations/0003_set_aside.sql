-- Items of a loop that could not be done: never in the way of their neighbours, seen by operators, tried ever more seldom.
create table set_aside (
  kind text not null,              -- the loop and what it takes one after another, such as 'refund'
  item text not null,              -- the item's id within its kind
  reason text not null,
  attempts int not null,
  first_at timestamptz not null,
  last_at timestamptz not null,
  next_at timestamptz not null,    -- not tried again before
  primary key (kind, item)
);

grant select, insert, update, delete on set_aside to tollkeeper_app;
