-- webhook_dashboard(): a page to look at, whole in itself: no script, no font, no image from anywhere.

CREATE FUNCTION @extschema@.webhook_dashboard_style() RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$ SELECT '
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1b1f24; --soft: #57606a; --edge: #d4d9df;
	--good: #0b6bcb; --bad: #c0262d; --odd: #8a5a00; --plain: #57606a; --ok: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #171b21; --text: #e8ebef; --soft: #a3adb8; --edge: #343b44;
	--good: #5fb0ff; --bad: #ff8078; --odd: #e8b04a; --plain: #a3adb8; --ok: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 78rem; margin: 0 auto; padding: 1rem; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem 1rem; padding-bottom: 0; }
h1 { font-size: 1.3rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; } h2 .soft { font-weight: 400; font-size: .85rem; margin-left: .3rem; }
p { margin: 0 0 .5rem; }
.soft, .none, footer { color: var(--soft); }
footer { font-size: .85rem; padding-top: 0; }
.status { font-weight: 600; border: 2px solid currentColor; border-radius: 999px; padding: .05rem .8rem; }
.status.ok { color: var(--ok); } .status.degraded { color: var(--odd); } .status.down { color: var(--bad); }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0 0 .75rem; padding: 0; }
.numbers div, section { background: var(--card); border: 1px solid var(--edge); border-radius: .6rem; padding: .8rem 1rem; }
.numbers dt { color: var(--soft); font-size: .85rem; } .numbers dd { margin: 0; font-size: 1.55rem; font-weight: 600; line-height: 1.2; }
.numbers small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); min-height: 1.2em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: .75rem; }
section { min-width: 0; } .wide { grid-column: 1 / -1; }
.alerts { margin: 0 0 .75rem; } .alerts ul { margin: 0; padding: 0; list-style: none; } .alerts li + li { margin-top: .4rem; }
.alerts b { margin-right: .5rem; } .alerts .CRITICAL b, .alerts .HIGH b { color: var(--bad); } .alerts .MEDIUM b { color: var(--odd); }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 11px; fill: var(--soft); } .chart .name { fill: var(--text); }
.chart .end { text-anchor: end; } .chart .middle { text-anchor: middle; }
.grid { stroke: var(--edge); stroke-width: 1; }
path, .legend line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; } .legend line { stroke-width: 3; }
path.good, line.good { stroke: var(--good); } path.bad, line.bad { stroke: var(--bad); }
path.odd, line.odd { stroke: var(--odd); } path.plain, line.plain { stroke: var(--plain); }
.dashed { stroke-dasharray: 6 4; } .dotted { stroke-dasharray: 1 4; }
rect.good { fill: var(--good); } rect.bad { fill: var(--bad); } rect.odd { fill: var(--odd); } rect.plain { fill: var(--plain); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .3rem 0 .5rem; padding: 0; list-style: none; font-size: .85rem; color: var(--soft); }
.legend svg { vertical-align: middle; margin-right: .4rem; }
details { font-size: .85rem; } summary { cursor: pointer; color: var(--soft); }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px; }
.scroll { overflow: auto; max-height: 20rem; } table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--edge); white-space: nowrap; } th:first-child { text-align: left; padding-left: 0; }
td.text { text-align: left; } thead th { color: var(--soft); font-weight: 600; } tbody th { font-weight: 400; }
@media (max-width: 40rem) { header, main, footer { padding-left: .6rem; padding-right: .6rem; } .chart text { font-size: 13px; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
' $$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_style() IS 'the style sheet of webhook_dashboard()';

CREATE FUNCTION @extschema@.webhook_dashboard_number(p_name text, p_value text, p_note text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT format('<div><dt>%s</dt><dd>%s<small>%s</small></dd></div>',
		@extschema@.webhook_html(p_name), @extschema@.webhook_html(p_value), @extschema@.webhook_html(p_note))
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_number(text, text, text) IS 'a number of the dashboard with its name and a note';

CREATE FUNCTION @extschema@.webhook_dashboard_alerts(p_reasons jsonb) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT '<section class="alerts" aria-labelledby="alerts-h"><h2 id="alerts-h">Alerts</h2>' || coalesce('<ul>' || string_agg(
		format('<li class="%s"><b>%s</b>%s <span class="soft">(%s)</span></li>',
			CASE WHEN r ->> 'severity' IN ('CRITICAL', 'HIGH', 'MEDIUM') THEN r ->> 'severity' END,
			@extschema@.webhook_html(initcap(lower(r ->> 'severity'))), @extschema@.webhook_html(r ->> 'message'),
			@extschema@.webhook_html(r ->> 'reason')), '') || '</ul>', '<p class="none">None.</p>') || '</section>'
	FROM jsonb_array_elements(p_reasons) r
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_alerts(jsonb) IS 'what webhook_health() has against the health, as a list';

CREATE FUNCTION @extschema@.webhook_dashboard_numbers(p_health jsonb, p_messages bigint, p_p95 double precision) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT '<dl class="numbers">'
		|| @extschema@.webhook_dashboard_number('Processed', @extschema@.webhook_short_number(p_messages::double precision), 'in the last 24 hours')
		|| @extschema@.webhook_dashboard_number('p95', CASE WHEN p_p95 IS NULL THEN '-' ELSE @extschema@.webhook_short_number(p_p95) || ' ms' END, 'processing time')
		|| @extschema@.webhook_dashboard_number('Waiting', CASE WHEN p_health -> 'queue' ->> 'more' = 'true' THEN '> 10k'
			ELSE @extschema@.webhook_short_number((p_health -> 'queue' ->> 'messages')::double precision) END,
			CASE WHEN (p_health -> 'queue' ->> 'oldest_seconds')::double precision > 0
				THEN 'oldest: ' || @extschema@.webhook_ago((p_health -> 'queue' ->> 'oldest_seconds')::double precision) ELSE 'messages, now' END)
		|| @extschema@.webhook_dashboard_number('Dead letters', @extschema@.webhook_short_number(
			(p_health -> 'dead_letters' ->> 'pending')::double precision + (p_health -> 'dead_letters' ->> 'retrying')::double precision), 'to be retried, now')
		|| @extschema@.webhook_dashboard_number('Circuits', coalesce(p_health -> 'circuits' ->> 'open', '-'), 'open, now')
		|| @extschema@.webhook_dashboard_number('Worker', CASE WHEN p_health -> 'worker' ->> 'pid' IS NOT NULL THEN 'up' WHEN p_health -> 'worker' ? 'failed' THEN '-' ELSE 'none' END,
			p_health -> 'worker' ->> 'state')
		|| '</dl>'
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_numbers(jsonb, bigint, double precision) IS 'the numbers at the top of the dashboard';

CREATE FUNCTION @extschema@.webhook_dashboard_error_list() RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_errors jsonb := @extschema@.webhook_dashboard_errors();
BEGIN
	RETURN '<section aria-labelledby="errors-h"><h2 id="errors-h">Dead letters by error</h2>'
		|| CASE WHEN v_errors IS NULL THEN '<p class="none">None in the last 24 hours.</p>' ELSE
			@extschema@.webhook_bar_chart('errors', 'Dead letters by error',
				format('The most frequent error is %s, with %s dead letters.', v_errors -> 0 ->> 0, v_errors -> 0 ->> 1),
				(SELECT jsonb_agg(jsonb_build_array(e -> 0, jsonb_build_array(jsonb_build_array('bad', e -> 1))) ORDER BY n)
					FROM jsonb_array_elements(v_errors) WITH ORDINALITY AS t (e, n) WHERE n <= 6))
			|| '<details><summary>As a table</summary>'
			|| @extschema@.webhook_html_table('Dead letters of the last 24 hours by class of error',
				'{Error,Dead letters,Not resolved,Services}'::text[], v_errors)
			|| '</details>' END
		|| '</section>';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_error_list() IS 'the part of the dashboard that has the dead letters by error';

CREATE FUNCTION @extschema@.webhook_dashboard_agent_list() RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_agents jsonb := @extschema@.webhook_dashboard_agents();
BEGIN
	RETURN '<section aria-labelledby="agents-h"><h2 id="agents-h">Agents</h2>'
		|| CASE WHEN v_agents IS NULL THEN '<p class="none">None in the last 24 hours.</p>' ELSE
			@extschema@.webhook_bar_chart('agents', 'Sessions of agents',
				format('The agent with the most sessions is %s, with %s.', v_agents -> 0 ->> 0, v_agents -> 0 ->> 1),
				(SELECT jsonb_agg(jsonb_build_array(e -> 0, jsonb_build_array(jsonb_build_array('good', e -> 3),
						jsonb_build_array('plain', e -> 2), jsonb_build_array('bad', e -> 4))) ORDER BY n)
					FROM jsonb_array_elements(v_agents) WITH ORDINALITY AS t (e, n) WHERE n <= 6))
			|| @extschema@.webhook_legend('[{"class": "good", "name": "completed"}, {"class": "plain", "name": "active"}, {"class": "bad", "name": "failed"}]'::jsonb)
			|| '<details><summary>As a table</summary>'
			|| @extschema@.webhook_html_table('Sessions of the last 24 hours; messages, tokens and seconds of one on average',
				'{Agent,Sessions,Active,Completed,Failed,Errors,Messages,Tokens,Seconds}'::text[], v_agents)
			|| '</details>' END
		|| '</section>';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_agent_list() IS 'the part of the dashboard that has the sessions of agents';

CREATE FUNCTION @extschema@.webhook_dashboard_charts(OUT html text, OUT messages bigint, OUT p95 double precision, OUT note text)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	v_quarters timestamptz[] := @extschema@.webhook_quarters();
	v_traffic record := @extschema@.webhook_dashboard_traffic(v_quarters);
	v_latency record := @extschema@.webhook_dashboard_latency();
	v_state record;
BEGIN
	SELECT max(counted_until) AS counted_until, max(history_until) IS NOT NULL AS counting
		INTO v_state FROM @extschema@.webhook_rollup_state;
	note := CASE
		WHEN v_state.counted_until IS NULL THEN 'The charts are empty until the job rollup has run twice: it counts what they show.'
		ELSE format('Times are UTC. Counted up to %s%s; the last day begins a day before now.', to_char(v_state.counted_until, 'YYYY-MM-DD HH24:MI:SS'),
			CASE WHEN v_state.counting THEN ', but messages from before the job rollup first ran are still being counted' ELSE '' END) END;
	messages := v_latency.messages;
	p95 := v_latency.p95;
	html := @extschema@.webhook_time_chart('throughput', 'lines', 'Throughput',
			'Messages received and messages processed in each quarter of an hour of the last day.',
			v_quarters, v_traffic.throughput, 'messages in 15 minutes')
		|| @extschema@.webhook_time_chart('latency', 'lines', 'Processing time',
			'The median, the 95th and the 99th percentile of the processing time in each hour of the last day.',
			v_latency.times, v_latency.series, 'milliseconds, by hour')
		|| @extschema@.webhook_time_chart('outcomes', 'columns', 'Outcomes',
			'Messages processed, attempts that failed, attempts whose holder vanished, and messages dropped at intake, in each quarter of an hour of the last day.',
			v_quarters, v_traffic.outcomes, 'in 15 minutes')
		|| @extschema@.webhook_time_chart('depth', 'lines', 'Queue depth',
			'Messages that waited, and dead letters that waited for a retry, as sampled every five minutes of the last day.',
			v_quarters, @extschema@.webhook_dashboard_depth(v_quarters), 'highest in 15 minutes');
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_charts() IS
	'the charts of the dashboard that are about time, two numbers of what they show, and how far it is counted';

CREATE FUNCTION @extschema@.webhook_dashboard_failure(p_id text, p_title text, p_sqlstate text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT format('<section aria-labelledby="%1$s-h"><h2 id="%1$s-h">%2$s</h2><p class="none">Can''t be shown now: %3$s.</p></section>',
		p_id, p_title, CASE p_sqlstate WHEN '55P03' THEN 'somebody has locked a table' ELSE 'SQLSTATE ' || p_sqlstate END)
	$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard_failure(text, text, text) IS 'what stands for a part of the dashboard that can''t be read';

-- A part that can't be read, because somebody has locked its table for instance, must not hide the others.
CREATE FUNCTION @extschema@.webhook_dashboard() RETURNS text
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO'
	SET lock_timeout = '250ms'
	AS $$
DECLARE
	v_health jsonb := @extschema@.webhook_health();
	v_status text := CASE WHEN v_health ->> 'status' IN ('ok', 'degraded', 'down') THEN v_health ->> 'status' ELSE 'unknown' END;
	v_charts text;
	v_messages bigint;
	v_p95 double precision;
	v_note text;
	v_errors text;
	v_agents text;
BEGIN
	BEGIN
		SELECT * INTO v_charts, v_messages, v_p95, v_note FROM @extschema@.webhook_dashboard_charts();
	EXCEPTION WHEN OTHERS THEN
		v_charts := @extschema@.webhook_dashboard_failure('charts', 'Charts', SQLSTATE);
		v_note := 'Times are UTC.';
	END;
	BEGIN
		v_errors := @extschema@.webhook_dashboard_error_list();
	EXCEPTION WHEN OTHERS THEN
		v_errors := @extschema@.webhook_dashboard_failure('errors', 'Dead letters by error', SQLSTATE);
	END;
	BEGIN
		v_agents := @extschema@.webhook_dashboard_agent_list();
	EXCEPTION WHEN OTHERS THEN
		v_agents := @extschema@.webhook_dashboard_failure('agents', 'Agents', SQLSTATE);
	END;
	RETURN '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
		|| '<meta http-equiv="Content-Security-Policy" content="default-src ''none''; style-src ''unsafe-inline''">'
		|| '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex"><meta name="color-scheme" content="light dark">'
		|| format('<title>wahook: %s</title><style>%s</style></head><body>', v_status, @extschema@.webhook_dashboard_style())
		|| format('<header><h1>wahook in %s</h1><span class="status %2$s">%2$s</span><span class="soft"><time datetime="%3$s">%4$s UTC</time></span></header><main>',
			@extschema@.webhook_html(current_database()::text), v_status, to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), to_char(now(), 'YYYY-MM-DD HH24:MI'))
		|| @extschema@.webhook_dashboard_numbers(v_health, v_messages, v_p95)
		|| @extschema@.webhook_dashboard_alerts(v_health -> 'reasons')
		|| '<div class="charts">' || v_charts || v_errors || v_agents
		|| '</div></main><footer>' || v_note
		|| format(' wahook %s, PostgreSQL %s.</footer></body></html>',
			@extschema@.webhook_html(v_health -> 'version' ->> 'extension'), @extschema@.webhook_html(v_health -> 'version' ->> 'server'));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_dashboard() IS
	'one self-contained HTML page about the last 24 hours: alerts, numbers, charts in SVG with a table each; no script, no phone number, user or payload in it';
