-- Feature flags.
SELECT webhook_feature_enabled('enhanced_processing', '250788000001') AS off_by_default, webhook_feature_enabled('no such flag', '250788000001') AS unknown,
	webhook_feature_enabled(NULL, NULL) AS "null", webhook_feature_enabled('', '') AS empty;
BEGIN;
INSERT INTO webhook_feature_flags (flag, state, percentage, test_users) VALUES
	('fl-off', 'off', 100, '{250788000001}'), ('fl-users', 'users', 100, '{+250 788-000-001, user.1, NULL}'), ('fl-on', 'on', 0, '{}'), ('fl-none', 'percentage', 0, '{250788000001}'),
	('fl-all', 'percentage', 100, '{}'), ('fl-half', 'percentage', 50, '{}'), ('fl-third', 'percentage', 33, '{}'), ('fl-other', 'percentage', 50, '{}');
SELECT flag, webhook_feature_enabled(flag, '250788000001') AS test_user, webhook_feature_enabled(flag, '+250788000001') AS with_plus, webhook_feature_enabled(flag, 'user.1') AS by_id,
	webhook_feature_enabled(flag, 'user.2') AS other, webhook_feature_enabled(flag, NULL) AS nobody, webhook_feature_enabled(flag, '') AS empty
	FROM webhook_feature_flags WHERE flag NOT IN ('fl-half', 'fl-third', 'fl-other', 'enhanced_processing') ORDER BY 1;
-- A share is stable, near what was asked for, other for another flag, and only grows.
CREATE TEMP TABLE users AS SELECT 'user.' || n AS id FROM generate_series(1, 1000) n;
SELECT count(*) FILTER (WHERE webhook_feature_enabled('fl-half', id)) BETWEEN 450 AND 550 AS half,
	count(*) FILTER (WHERE webhook_feature_enabled('fl-half', id) <> webhook_feature_enabled('fl-other', id)) BETWEEN 400 AND 600 AS other_users
	FROM users;
CREATE TEMP TABLE half AS SELECT id FROM users WHERE webhook_feature_enabled('fl-half', id);
UPDATE webhook_feature_flags SET percentage = 51 WHERE flag = 'fl-half';
SELECT count(*) AS lost FROM half WHERE NOT webhook_feature_enabled('fl-half', id);
UPDATE webhook_feature_flags SET percentage = 50 WHERE flag = 'fl-half';
SELECT count(*) AS changed FROM users WHERE webhook_feature_enabled('fl-half', id) <> (id IN (SELECT id FROM half));
-- The documented formula, and values that must be the same in every version.
SELECT count(*) AS differences FROM users WHERE webhook_feature_enabled('fl-half', id)
	<> ((hashtextextended(id, hashtextextended('fl-half', 0)) & 9223372036854775807) % 100 < 50);
SELECT string_agg(id, ' ' ORDER BY length(id), id) FROM (SELECT id FROM users WHERE webhook_feature_enabled('fl-third', id) LIMIT 10) u;
ROLLBACK;
SELECT webhook_user_in_share('x', repeat('y', 1000000), 100, '{}') AS huge, webhook_user_in_share('x', 'y', NULL, NULL) AS nothing, webhook_user_in_share(NULL, 'y', 100, '{}') AS no_name,
	webhook_user_in_share('x', 'y', -1, '{}') AS negative, webhook_user_in_share('x', 'y', 1000, '{}') AS more_than_all, webhook_user_in_share('x', 'y', 0, '{{z},{y}}') AS nested;
