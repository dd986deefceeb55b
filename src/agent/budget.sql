-- What agents may cost: tokens a day, of an agent and of each of its users, in rate limit buckets.
--
-- budget: the tokens of an agent, or of several that name the same one. Its buckets are agent:NAME and
-- agent-user:NAME; one that is not configured is no limit. What a call costs is known after it, so spending is
-- never refused: a bucket may go below zero, and nobody may spend until it has refilled.
--
-- Nobody waits for another's transaction to spend, for that may run a handler of the user's meanwhile. Who
-- finds the row taken writes what it spends into one of its own, an arrear, which the next spender adds up. The
-- bucket of an arrear is that of the row, a tilde and a uuid.

CREATE FUNCTION @extschema@.webhook_try_budget_lock(p_budget text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'wahook_try_budget_lock' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.webhook_try_budget_lock(text) IS
	'whether this transaction has the spending of a budget to itself from now on until it ends';

-- An arrear refills as well; that several do so at once errs in favour of the user, and until the next call.
CREATE FUNCTION @extschema@.webhook_budget_left(p_identifier text, p_bucket text)
	RETURNS double precision
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_now timestamptz := clock_timestamp();
BEGIN
	RETURN (SELECT least(b.max_tokens, coalesce(max(l.refilled) FILTER (WHERE l.bucket = p_bucket), b.max_tokens))
			+ coalesce(sum(least(0, l.refilled)) FILTER (WHERE l.bucket <> p_bucket), 0)
		FROM @extschema@.webhook_rate_limit_buckets b
			LEFT JOIN LATERAL (SELECT bucket, tokens + b.refill_per_second
					* greatest(0, extract(epoch FROM v_now - refilled_at)::double precision) AS refilled
				FROM @extschema@.webhook_rate_limits
				WHERE identifier = p_identifier AND (bucket = p_bucket
					OR left(bucket, -37) = p_bucket AND substr(bucket, length(p_bucket) + 1, 1) = '~')) l ON true
		WHERE b.bucket = p_bucket
		GROUP BY b.max_tokens);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_budget_left(text, text) IS
	'how many tokens a bucket of a budget holds, below 0 where more was spent; null: there is no such bucket';

CREATE FUNCTION @extschema@.webhook_spend_budget(p_identifier text, p_bucket text, p_tokens integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_bucket @extschema@.webhook_rate_limit_buckets;
	v_now timestamptz := clock_timestamp();
BEGIN
	SELECT * INTO v_bucket FROM @extschema@.webhook_rate_limit_buckets WHERE bucket = p_bucket;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	-- This lock is for the first row of all, which no row lock can hold; the row lock for those who do without.
	IF @extschema@.webhook_try_budget_lock(p_bucket || ' ' || p_identifier) THEN
		INSERT INTO @extschema@.webhook_rate_limits (identifier, bucket, tokens, refilled_at)
			SELECT p_identifier, p_bucket, v_bucket.max_tokens, v_now
				WHERE NOT EXISTS (SELECT FROM @extschema@.webhook_rate_limits
					WHERE identifier = p_identifier AND bucket = p_bucket)
			ON CONFLICT (identifier, bucket) DO NOTHING;
		PERFORM FROM @extschema@.webhook_rate_limits WHERE identifier = p_identifier AND bucket = p_bucket
			FOR UPDATE SKIP LOCKED;
		IF FOUND THEN
			WITH arrears AS (
				DELETE FROM @extschema@.webhook_rate_limits WHERE ctid = ANY (ARRAY(
					SELECT ctid FROM @extschema@.webhook_rate_limits
					WHERE identifier = p_identifier AND left(bucket, -37) = p_bucket
						AND substr(bucket, length(p_bucket) + 1, 1) = '~'
					FOR UPDATE SKIP LOCKED))
				RETURNING least(0, tokens + v_bucket.refill_per_second
					* greatest(0, extract(epoch FROM v_now - refilled_at)::double precision)) AS tokens)
			UPDATE @extschema@.webhook_rate_limits
				SET tokens = least(v_bucket.max_tokens, tokens + v_bucket.refill_per_second
							* greatest(0, extract(epoch FROM v_now - refilled_at)::double precision))
						+ coalesce((SELECT sum(a.tokens) FROM arrears a), 0) - p_tokens,
					refilled_at = greatest(v_now, refilled_at)
				WHERE identifier = p_identifier AND bucket = p_bucket;
			RETURN;
		END IF;
	END IF;
	INSERT INTO @extschema@.webhook_rate_limits (identifier, bucket, tokens, refilled_at)
		VALUES (p_identifier, p_bucket || '~' || @extschema@.webhook_uuid(), -p_tokens, v_now);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_spend_budget(text, text, integer) IS
	'takes tokens from a bucket of a budget, whether it has them or not; never waits';

-- An identifier is part of a key, which can't be of any length.
CREATE FUNCTION @extschema@.webhook_agent_buckets(p_agent_type text, p_user_id text)
	RETURNS TABLE (identifier text, bucket text, reason text)
	LANGUAGE plpgsql STABLE ROWS 2 SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY SELECT v.identifier, v.bucket, v.reason
		FROM (SELECT coalesce(budget, agent_type) AS budget FROM @extschema@.webhook_agents
				WHERE agent_type = p_agent_type) a,
			LATERAL (VALUES ('agent', 'agent:' || a.budget, 'daily_tokens'),
				(CASE WHEN octet_length(p_user_id) > 1000 THEN md5(p_user_id) ELSE p_user_id END,
					'agent-user:' || a.budget, 'daily_tokens_per_user')) v (identifier, bucket, reason)
		WHERE v.identifier <> '';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_buckets(text, text) IS
	'the buckets that an agent''s tokens for a user come from, and what limits them';

CREATE FUNCTION @extschema@.webhook_agent_may_spend(p_agent_type text, p_user_id text, p_tokens integer)
	RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	-- Keeps the time of refill a timestamp.
	c_longest_wait constant double precision := 100 * 366 * 86400.0;
	v_now timestamptz := clock_timestamp();
	v_refused record;
BEGIN
	-- What asks for more than the bucket ever holds gets through while it is full: it would wait for ever.
	SELECT b.reason, v_now + make_interval(secs =>
			least((n.tokens - n.left_over) / r.refill_per_second, c_longest_wait)) AS retry_at
		INTO v_refused
		FROM @extschema@.webhook_agent_buckets(p_agent_type, p_user_id) b
			JOIN @extschema@.webhook_rate_limit_buckets r ON r.bucket = b.bucket
			CROSS JOIN LATERAL (SELECT least(greatest(1, p_tokens), r.max_tokens) AS tokens,
				@extschema@.webhook_budget_left(b.identifier, b.bucket) AS left_over) n
		WHERE n.left_over < n.tokens
		ORDER BY 2 DESC LIMIT 1;
	RETURN jsonb_build_object('allowed', NOT FOUND, 'reason', v_refused.reason, 'retry_at', v_refused.retry_at);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_may_spend(text, text, integer) IS
	'whether an agent may spend about so many tokens on a user now: {allowed, reason, retry_at}; takes none, see webhook_agent_spend()';

CREATE FUNCTION @extschema@.webhook_agent_spend(p_agent_type text, p_user_id text, p_tokens integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF p_tokens > 0 THEN
		PERFORM @extschema@.webhook_spend_budget(b.identifier, b.bucket, p_tokens)
			FROM @extschema@.webhook_agent_buckets(p_agent_type, p_user_id) b;
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_agent_spend(text, text, integer) IS
	'takes what a call cost from the budgets of an agent and of its user; never refuses, never waits';
