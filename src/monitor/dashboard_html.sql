-- HTML and SVG for webhook_dashboard(): escaping, tables, charts. Nothing here reads a table.
--
-- plpgsql, which keeps its plans: planning takes longer than drawing.
--
-- A chart is drawn in units of its own, 400 wide and 196 high, and takes the width that the page gives it.
-- A series is {"name", "class", "values": [...]}, with a value (or null) for each time; the class says how
-- it looks, in the style sheet. What a chart shows can be read in the table that goes with it.

-- These two are called for each cell of a table: they are inlined, and so have no settings of their own.
CREATE FUNCTION @extschema@.webhook_html(p_text text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN coalesce(replace(replace(replace(replace(replace(
		-- Control characters have no place in HTML, whatever they are written as.
		translate(p_text, E'\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f', ''),
		'&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;'), '');
COMMENT ON FUNCTION @extschema@.webhook_html(text) IS
	'a text as it may stand in an element or an attribute of HTML; null: nothing';

CREATE FUNCTION @extschema@.webhook_short_number(p_number double precision) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE
		WHEN p_number IS NULL THEN '-'
		WHEN abs(p_number) >= 1e9 THEN trim_scale(round((p_number / 1e9)::numeric, 1))::text || 'G'
		WHEN abs(p_number) >= 1e6 THEN trim_scale(round((p_number / 1e6)::numeric, 1))::text || 'M'
		WHEN abs(p_number) >= 1e4 THEN trim_scale(round((p_number / 1e3)::numeric, 1))::text || 'k'
		WHEN abs(p_number) < 10 THEN trim_scale(round(p_number::numeric, 1))::text
		ELSE round(p_number)::bigint::text END;
COMMENT ON FUNCTION @extschema@.webhook_short_number(double precision) IS 'a number in at most six characters or so';

CREATE FUNCTION @extschema@.webhook_axis_step(p_most double precision) RETURNS double precision
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		SELECT min(step) FROM (SELECT greatest(1, power(10::double precision, floor(log(greatest(p_most, 1))))) AS ten) t,
			LATERAL unnest(ARRAY[ten / 4, ten / 2, ten, ten * 2, ten * 2.5, ten * 3]) AS step
		WHERE step >= 1 AND step = floor(step) AND step * 4 >= p_most);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_axis_step(double precision) IS
	'a round number, of which four reach up to the greatest value';

-- Rows are arrays of texts; the first column is what the row is about.
CREATE FUNCTION @extschema@.webhook_html_table(p_caption text, p_head text[], p_rows jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		SELECT format('<div class="scroll" tabindex="0" role="region" aria-label="%1$s"><table><caption>%1$s</caption><thead><tr>%2$s</tr></thead><tbody>%3$s</tbody></table></div>',
			@extschema@.webhook_html(p_caption),
			(SELECT string_agg(format('<th scope="col">%s</th>', @extschema@.webhook_html(h)), '' ORDER BY n)
				FROM unnest(p_head) WITH ORDINALITY AS t (h, n)),
			(SELECT string_agg('<tr>' || (
					SELECT string_agg(format(CASE c WHEN 1 THEN '<th scope="row">%s</th>' ELSE '<td>%s</td>' END,
						@extschema@.webhook_html(coalesce(v, '-'))), '' ORDER BY c)
					FROM jsonb_array_elements_text(r) WITH ORDINALITY AS cell (v, c)) || '</tr>', '' ORDER BY n)
				FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS line (r, n))));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_html_table(text, text[], jsonb) IS 'a table of texts';

-- The table of a chart over time, newest first.
CREATE FUNCTION @extschema@.webhook_series_table(p_title text, p_times timestamptz[], p_series jsonb, p_unit text)
	RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
	AS $$
BEGIN
	RETURN (
		SELECT '<details><summary>As a table</summary>' || @extschema@.webhook_html_table(
			p_title || CASE WHEN p_unit <> '' THEN ', ' || p_unit ELSE '' END,
			ARRAY['From (UTC)'] || (SELECT array_agg(s ->> 'name' ORDER BY n) FROM jsonb_array_elements(p_series) WITH ORDINALITY AS e (s, n)),
			(SELECT jsonb_agg(jsonb_build_array(to_char(p_times[i], 'YYYY-MM-DD HH24:MI')) || numbers ORDER BY i DESC)
				FROM (SELECT i, jsonb_agg(@extschema@.webhook_short_number(v::double precision) ORDER BY n) AS numbers
					FROM jsonb_array_elements(p_series) WITH ORDINALITY AS e (s, n),
						jsonb_array_elements_text(s -> 'values') WITH ORDINALITY AS f (v, i)
					GROUP BY i HAVING bool_or(v::double precision <> 0)) line))
			|| '</details>');
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_series_table(text, timestamptz[], jsonb, text) IS
	'what a chart over time shows, as a table; times at which there was nothing are left out';

CREATE FUNCTION @extschema@.webhook_legend(p_series jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		SELECT '<ul class="legend" aria-hidden="true">' || string_agg(format('<li><svg viewBox="0 0 24 10" width="24" height="10"><line class="%1$s" x1="1" y1="5" x2="23" y2="5"/></svg>%2$s</li>',
			s ->> 'class', @extschema@.webhook_html(s ->> 'name')), '' ORDER BY n) || '</ul>'
		FROM jsonb_array_elements(p_series) WITH ORDINALITY AS e (s, n));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_legend(jsonb) IS 'which line is which';

-- Grid, labels, title and description round what is drawn. The plot is from 44 to 392 and from 12 to 172.
CREATE FUNCTION @extschema@.webhook_svg(p_id text, p_title text, p_description text, p_times timestamptz[],
	p_step double precision, p_inside text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC'
	AS $$
BEGIN
	RETURN (
		SELECT format('<svg class="chart" viewBox="0 0 400 196" role="img" aria-labelledby="%1$s-t %1$s-d"><title id="%1$s-t">%2$s</title><desc id="%1$s-d">%3$s</desc><g aria-hidden="true">%4$s%5$s</g>%6$s</svg>',
			p_id, @extschema@.webhook_html(p_title), @extschema@.webhook_html(p_description),
			(SELECT string_agg(format('<line class="grid" x1="44" x2="392" y1="%1$s" y2="%1$s"/><text class="tick end" x="39" y="%2$s">%3$s</text>',
					172 - 40 * i, 176 - 40 * i, @extschema@.webhook_short_number(p_step * i)), '' ORDER BY i)
				FROM generate_series(0, 4) i),
			(SELECT string_agg(format('<text class="tick middle" x="%s" y="190">%s</text>',
					round(44 + 348 * (i - 0.5) / cardinality(p_times), 1), to_char(p_times[i], 'HH24:MI')), '' ORDER BY i)
				FROM generate_subscripts(p_times, 1) AS i
				WHERE extract(minute FROM p_times[i]) = 0 AND extract(hour FROM p_times[i])::integer % 6 = 0
					AND (i - 0.5) / cardinality(p_times) BETWEEN 0.03 AND 0.96),
			p_inside));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_svg(text, text, text, timestamptz[], double precision, text) IS
	'a chart over time, of what is drawn in it';

-- A value alone between two gaps is a dot: a line with no length and round ends.
CREATE FUNCTION @extschema@.webhook_svg_lines(p_times timestamptz[], p_series jsonb, p_step double precision) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		SELECT string_agg(format('<path class="%s" d="%s"/>', class, path), '' ORDER BY n)
		FROM (
			SELECT n, class, string_agg(CASE WHEN begins THEN format('M%s,%sh0', x, y) ELSE format('L%s,%s', x, y) END, '' ORDER BY i) AS path
			FROM (
				SELECT e.n, s ->> 'class' AS class, i,
					round(44 + 348 * (i - 0.5) / cardinality(p_times), 1) AS x,
					round((172 - 160 * least(1, v::double precision / (p_step * 4)))::numeric, 1) AS y,
					lag(v) OVER (PARTITION BY e.n ORDER BY i) IS NULL AS begins, v
				FROM jsonb_array_elements(p_series) WITH ORDINALITY AS e (s, n),
					jsonb_array_elements_text(s -> 'values') WITH ORDINALITY AS f (v, i)) points
			WHERE v IS NOT NULL
			GROUP BY n, class) paths);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_svg_lines(timestamptz[], jsonb, double precision) IS 'lines, broken where there is no value';

-- What is there at all is to be seen: it is at least two units high.
CREATE FUNCTION @extschema@.webhook_svg_columns(p_times timestamptz[], p_series jsonb, p_step double precision) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		SELECT string_agg(format('<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>', class,
				round(44 + 348 * (i - 0.9) / cardinality(p_times), 1), round((172 - top)::numeric, 1),
				round(348 * 0.8 / cardinality(p_times), 1), round(height::numeric, 1)), '' ORDER BY i, n)
		FROM (SELECT *, sum(height) OVER (PARTITION BY i ORDER BY n) AS top
			FROM (
				SELECT e.n, s ->> 'class' AS class, i, greatest(2, 160 * v::double precision / (p_step * 4)) AS height
				FROM jsonb_array_elements(p_series) WITH ORDINALITY AS e (s, n),
					jsonb_array_elements_text(s -> 'values') WITH ORDINALITY AS f (v, i)
				WHERE v::double precision > 0) boxes) stacked);
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_svg_columns(timestamptz[], jsonb, double precision) IS 'columns, one series on top of the other';

CREATE FUNCTION @extschema@.webhook_time_chart(p_id text, p_kind text, p_title text, p_description text,
	p_times timestamptz[], p_series jsonb, p_unit text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	-- The highest value, or the highest pile of them.
	v_most double precision := (
		SELECT max(most) FROM (
			SELECT CASE p_kind WHEN 'columns' THEN sum(v::double precision) ELSE max(v::double precision) END AS most
			FROM jsonb_array_elements(p_series) s, jsonb_array_elements_text(s -> 'values') WITH ORDINALITY AS f (v, i)
			GROUP BY i) m);
	v_step double precision := @extschema@.webhook_axis_step(coalesce(v_most, 0));
	v_inside text;
BEGIN
	IF coalesce(v_most, 0) = 0 THEN
		RETURN format('<section aria-labelledby="%1$s-h"><h2 id="%1$s-h">%2$s</h2><p class="none">Nothing in the last 24 hours.</p></section>',
			p_id, @extschema@.webhook_html(p_title));
	END IF;
	v_inside := CASE p_kind
		WHEN 'columns' THEN @extschema@.webhook_svg_columns(p_times, p_series, v_step)
		ELSE @extschema@.webhook_svg_lines(p_times, p_series, v_step) END;
	RETURN format('<section aria-labelledby="%1$s-h"><h2 id="%1$s-h">%2$s <span class="soft">%3$s</span></h2>',
			p_id, @extschema@.webhook_html(p_title), @extschema@.webhook_html(p_unit))
		|| @extschema@.webhook_svg(p_id, p_title, p_description, p_times, v_step, v_inside)
		|| @extschema@.webhook_legend(p_series)
		|| @extschema@.webhook_series_table(p_title, p_times, p_series, p_unit)
		|| '</section>';
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_time_chart(text, text, text, text, timestamptz[], jsonb, text) IS
	'a section with a chart over time, its legend and its table; kind: lines or columns';

-- Bars with their names above them, each of one or more parts: [[name, [[class, number], ...]], ...].
CREATE FUNCTION @extschema@.webhook_bar_chart(p_id text, p_title text, p_description text, p_bars jsonb) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	RETURN (
		WITH parts AS (
			SELECT line, name, part, class, number,
				sum(number) OVER (PARTITION BY line ORDER BY part) AS upto, sum(number) OVER (PARTITION BY line) AS total
			FROM (SELECT b.line, b.bar ->> 0 AS name, p.part, p.value ->> 0 AS class, (p.value ->> 1)::double precision AS number
				FROM jsonb_array_elements(p_bars) WITH ORDINALITY AS b (bar, line),
					jsonb_array_elements(b.bar -> 1) WITH ORDINALITY AS p (value, part)) n),
		scale AS (SELECT 330 / greatest(1, max(total)) AS width FROM parts)
		SELECT format('<svg class="chart" viewBox="0 0 400 %4$s" role="img" aria-labelledby="%1$s-t %1$s-d"><title id="%1$s-t">%2$s</title><desc id="%1$s-d">%3$s</desc><g aria-hidden="true">%5$s%6$s</g></svg>',
			p_id, @extschema@.webhook_html(p_title), @extschema@.webhook_html(p_description), 4 + 32 * jsonb_array_length(p_bars),
			(SELECT string_agg(format('<text class="name" x="0" y="%s">%s</text><text class="name" x="%s" y="%s">%s</text>',
					32 * line - 18, @extschema@.webhook_html(left(name, 60)), round((greatest(2, total * width) + 6)::numeric, 1),
					32 * line - 3, @extschema@.webhook_short_number(total)), '' ORDER BY line)
				FROM (SELECT DISTINCT line, name, total FROM parts) bars, scale),
			(SELECT string_agg(format('<rect class="%s" x="%s" y="%s" width="%s" height="10"/>',
					class, round(((upto - number) * width)::numeric, 1), 32 * line - 12, round(greatest(2, number * width)::numeric, 1)), '' ORDER BY line, part)
				FROM parts, scale WHERE number > 0)));
END
$$;
COMMENT ON FUNCTION @extschema@.webhook_bar_chart(text, text, text, jsonb) IS 'horizontal bars with their names and numbers';
