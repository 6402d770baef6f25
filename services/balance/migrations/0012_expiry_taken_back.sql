-- What was used within a grant and is told after its rest expired is paid by it after all.

-- What expired of a grant and was not taken back, and how much of that late usage has a claim to: taken back next.
alter table grant_standing
  add column expired_micros bigint not null default 0 check (expired_micros >= 0),
  add column claimed_micros bigint not null default 0 check (claimed_micros >= 0);
update grant_standing s set expired_micros = f.expired
from (
  select split_part(fact_id, '/', 2) as grant_id, -sum(amount_micros) as expired
  from posted_fact where fact_id like 'expiry/%' group by 1
) f where f.grant_id = s.grant_id;
