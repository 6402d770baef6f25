-- A payment names its order also where that is not known here: a restore lost it. When the customer repeats his request
-- the order is there again, and the payment is its own.
alter table payment add column unknown_order_id text;
create index payment_of_unknown_order on payment (unknown_order_id) where unknown_order_id is not null;
grant update (order_id, unknown_order_id) on payment to tollkeeper_app;
