-- Token buckets: each identifier has one in each bucket's size, full at first, refilled by the clock.

CREATE FUNCTION @extschema@.check_rate_limit(
	p_identifier text, p_bucket text, p_tokens_requested integer DEFAULT 1)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	-- btree takes keys of up to 2,700 bytes, and a name that long is a mistake anyway.
	c_max_length constant integer := 1000;
	-- Keeps the time of refill a timestamp, however slow the refill.
	c_longest_wait constant double precision := 100 * 366 * 86400.0;
	v_now timestamptz := clock_timestamp();
	v_bucket @extschema@.webhook_rate_limit_buckets;
	v_tokens double precision;
	v_refilled_at timestamptz;
BEGIN
	IF coalesce(p_identifier, '') = '' OR octet_length(p_identifier) > c_max_length THEN
		RAISE EXCEPTION 'rate limit identifier must have from 1 to % bytes', c_max_length
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass what is limited, for example a phone number.';
	END IF;
	IF coalesce(p_bucket, '') = '' OR octet_length(p_bucket) > c_max_length THEN
		RAISE EXCEPTION 'rate limit bucket must have from 1 to % bytes', c_max_length
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Pass ''default'', or one of webhook_rate_limit_buckets.';
	END IF;

	SELECT * INTO v_bucket FROM @extschema@.webhook_rate_limit_buckets
		WHERE bucket IN (p_bucket, 'default')
		ORDER BY bucket <> p_bucket
		LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'rate limit bucket "%" is not configured', p_bucket
			USING ERRCODE = 'WH006',
				HINT = 'Insert it, or one named ''default'', into webhook_rate_limit_buckets.';
	END IF;
	IF p_tokens_requested IS NULL OR p_tokens_requested NOT BETWEEN 1 AND v_bucket.max_tokens THEN
		RAISE EXCEPTION 'tokens requested must be from 1 to %, not %',
			v_bucket.max_tokens, coalesce(p_tokens_requested::text, 'null')
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('Bucket "%s" never holds more than %s.', p_bucket, v_bucket.max_tokens),
				HINT = 'Ask for less, or raise max_tokens in webhook_rate_limit_buckets.';
	END IF;

	-- The row's lock makes concurrent callers take turns, so none spends what another has. A caller
	-- that waited may be earlier than the last refill: then nothing has been refilled since. A
	-- refused call leaves the row as it is, so a flood of them leaves no dead rows.
	INSERT INTO @extschema@.webhook_rate_limits AS l
		VALUES (p_identifier, p_bucket, v_bucket.max_tokens - p_tokens_requested, v_now)
		ON CONFLICT (identifier, bucket) DO UPDATE
		SET tokens = least(v_bucket.max_tokens, l.tokens + v_bucket.refill_per_second
				* greatest(0, extract(epoch FROM v_now - l.refilled_at)::double precision))
				- p_tokens_requested,
			refilled_at = greatest(v_now, l.refilled_at)
		WHERE least(v_bucket.max_tokens, l.tokens + v_bucket.refill_per_second
				* greatest(0, extract(epoch FROM v_now - l.refilled_at)::double precision))
				>= p_tokens_requested
		RETURNING l.tokens INTO v_tokens;
	IF FOUND THEN
		RETURN jsonb_build_object('allowed', true, 'max_tokens', v_bucket.max_tokens,
			'tokens_remaining', floor(v_tokens), 'blocked_until', NULL);
	END IF;

	SELECT tokens, refilled_at INTO v_tokens, v_refilled_at FROM @extschema@.webhook_rate_limits
		WHERE identifier = p_identifier AND bucket = p_bucket;
	RETURN jsonb_build_object('allowed', false, 'max_tokens', v_bucket.max_tokens,
		'tokens_remaining', floor(v_tokens + v_bucket.refill_per_second
			* greatest(0, extract(epoch FROM v_now - v_refilled_at)::double precision)),
		'blocked_until', v_refilled_at + make_interval(secs =>
			least((p_tokens_requested - v_tokens) / v_bucket.refill_per_second, c_longest_wait)));
END
$$;
COMMENT ON FUNCTION @extschema@.check_rate_limit(text, text, integer) IS
	'takes tokens from an identifier''s bucket: {allowed, max_tokens, tokens_remaining, blocked_until}; blocked_until is null when allowed, else when there will be enough. More than the bucket ever holds is an error';
