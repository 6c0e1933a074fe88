-- Two tasks of one collector could learn of the same change at once, and an event of the slower one's subscription was held as
-- if nobody were known for it. Have what is held of known subscriptions judged again, once.
update subscription set unsettled = true
where subscription_id in (select k.subscription_id from subscription_key k join held_event h on h.sid = k.sid);
