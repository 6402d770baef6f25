-- What refunds and disputes took from an account is asked for with every deletion permit and redemption.
create index posted_fact_account on posted_fact (account_id);
