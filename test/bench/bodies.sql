-- What Meta would post, made by the server from a number. Every case gets its text from here, so that making it costs
-- each of them the same. One expression each that the planner can put in the place of the call.

-- A message id like Meta's: the sender, then what looks random.
CREATE FUNCTION bench_wamid(p_n bigint, p_phone text) RETURNS text LANGUAGE sql STABLE
	AS $$
	SELECT 'wamid.HBgM' || p_phone || 'FQIAEhggRDY5' || to_hex(hashint8extended(p_n, 0)) || to_hex(hashint8extended(p_n, 1))
		|| to_hex(p_n) || 'AA=='
	$$;

CREATE FUNCTION bench_phone(p_user integer) RETURNS text LANGUAGE sql STABLE
	AS $$ SELECT (250788000000 + p_user)::text $$;

-- A change with one message; metadata, contact and message are 600 bytes.
CREATE FUNCTION bench_change(p_wamid text, p_phone text) RETURNS text LANGUAGE sql STABLE
	AS $$
	SELECT '{"value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"250788123200",'
		'"phone_number_id":"106540352242922"},"contacts":[{"profile":{"name":"Aline Uwase"},"wa_id":"' || p_phone || '"}],'
		'"messages":[{"from":"' || p_phone || '","id":"' || p_wamid || '","timestamp":"1761993296","text":{"body":"Mwaramutse!'
		' I saw the house in Kimihurura, three bedrooms with a garden, and I would like to visit it this week, best on'
		' Friday after four. Is the price you gave still right, and is water included? My brother would come along; he'
		' asks whether there is room for two cars."},"type":"text"}]},"field":"messages"}'
	$$;

CREATE FUNCTION bench_delivery(p_changes text) RETURNS text LANGUAGE sql STABLE
	AS $$
	SELECT '{"object":"whatsapp_business_account","entry":[{"id":"102290129340398","time":1761993296,"changes":['
		|| p_changes || ']}]}'
	$$;

-- A hundred different messages. p_user and p_step scatter them over the users; a step that shares no factor with
-- their number gives a hundred different ones.
CREATE FUNCTION bench_hundred(p_n bigint, p_user integer, p_step integer)
	RETURNS TABLE (wamid text, phone text) LANGUAGE sql STABLE ROWS 100
	AS $$
	SELECT bench_wamid(p_n * 100 + i, phone), phone
	FROM generate_series(1, 100) i
	CROSS JOIN LATERAL (SELECT bench_phone((p_user + i * p_step) % 10000) AS phone OFFSET 0) user_
	OFFSET 0
	$$;
