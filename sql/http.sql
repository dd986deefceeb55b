-- What requests over HTTP rest on: which addresses they may go to, how they are signed. Their delivery is tested with a
-- worker and an endpoint, in test/t.

-- The settings are defined with the library.
LOAD 'wahook';
SHOW wahook.http_allowed_networks;
-- One address of each kind, and the neighbours of the networks' ends.
CREATE TEMP TABLE addresses (kind text, address inet);
INSERT INTO addresses VALUES
	('public', '8.8.8.8'), ('public', '2606:4700::1111'), ('public', '1.0.0.1'), ('public', '223.255.255.255'),
	('this network', '0.0.0.0'), ('this network', '::'),
	('loopback', '127.0.0.1'), ('loopback', '127.255.255.255'), ('loopback', '::1'),
	('private', '10.0.0.1'), ('private', '172.16.0.1'), ('private', '172.31.255.255'), ('private', '192.168.255.255'),
	('private', 'fc00::1'), ('private', 'fdff::1'),
	('beside private', '9.255.255.255'), ('beside private', '11.0.0.0'), ('beside private', '172.15.255.255'),
	('beside private', '172.32.0.0'), ('beside private', '192.167.255.255'), ('beside private', '192.169.0.0'),
	('shared', '100.64.0.1'), ('shared', '100.127.255.255'),
	('beside shared', '100.63.255.255'), ('beside shared', '100.128.0.0'),
	('link-local', '169.254.169.254'), ('link-local', 'fe80::1'), ('site-local', 'fec0::1'),
	('multicast', '224.0.0.1'), ('multicast', 'ff02::1'), ('reserved', '240.0.0.1'), ('broadcast', '255.255.255.255'),
	('protocols', '192.0.0.1'), ('benchmarking', '198.18.0.1'), ('benchmarking', '198.19.255.255'), ('benchmarking', '2001:2::1'),
	('documentation', '192.0.2.1'), ('documentation', '198.51.100.1'), ('documentation', '203.0.113.1'),
	('documentation', '2001:db8::1'), ('documentation', '3fff::1'),
	('6to4', '2002:7f00:1::1'), ('6to4', '192.88.99.1'), ('Teredo', '2001::1'), ('of nobody', '4000::1'), ('segment routing', '5f00::1'),
	('IPv4-compatible', '::127.0.0.1'), ('IPv4-compatible', '::8.8.8.8'),
	('IPv4-mapped', '::ffff:127.0.0.1'), ('IPv4-mapped', '::ffff:169.254.169.254'), ('IPv4-mapped, public', '::ffff:8.8.8.8'),
	('NAT64', '64:ff9b::10.0.0.1'), ('NAT64, public', '64:ff9b::8.8.8.8'), ('NAT64, of a site', '64:ff9b:1::8.8.8.8');
SELECT kind, string_agg(host(address), ' ' ORDER BY address) FROM addresses WHERE webhook_address_allowed(address)
	GROUP BY kind ORDER BY kind COLLATE "C";
SELECT kind, string_agg(host(address), ' ' ORDER BY address) FROM addresses WHERE NOT webhook_address_allowed(address)
	GROUP BY kind ORDER BY kind COLLATE "C";
SELECT webhook_address_allowed(NULL);

-- The list is all that is allowed.
SET wahook.http_allowed_networks = '';
SELECT count(*) FROM addresses WHERE webhook_address_allowed(address);
SET wahook.http_allowed_networks = '127.0.0.1, 10.0.0.0/8';
SELECT address FROM addresses WHERE webhook_address_allowed(address) ORDER BY address;
SET wahook.http_allowed_networks = ' public,169.254.0.0/16  fd00::/8 ';
SELECT address FROM addresses WHERE webhook_address_allowed(address) AND kind !~ 'public|beside' ORDER BY address;
-- One kind of addresses is not the other.
SET wahook.http_allowed_networks = '::/0';
SELECT count(*) FILTER (WHERE webhook_address_allowed(address)), count(*) FROM addresses WHERE family(address) = 4;
SELECT webhook_address_allowed('::1'), webhook_address_allowed('::ffff:127.0.0.1'), webhook_address_allowed('64:ff9b::127.0.0.1');
SET wahook.http_allowed_networks = '0.0.0.0/0';
SELECT count(*) FILTER (WHERE webhook_address_allowed(address)), count(*) FROM addresses WHERE family(address) = 4;
SELECT webhook_address_allowed('::1'), webhook_address_allowed('::ffff:127.0.0.1');

-- What is no network, or not the one it looks like.
SET wahook.http_allowed_networks = 'public, private';
\echo :LAST_ERROR_SQLSTATE
SET wahook.http_allowed_networks = '10.0.0.1/8';
SET wahook.http_allowed_networks = '10.0.0.0/33';
SET wahook.http_allowed_networks = '10.0.0.0/';
SET wahook.http_allowed_networks = '10/8';
SET wahook.http_allowed_networks = '::1/129';
SET wahook.http_allowed_networks = '::ffff:10.0.0.0/104';
SET wahook.http_allowed_networks = '64:ff9b::/96';
SET wahook.http_allowed_networks = 'localhost';
-- What is long is not repeated.
DO $$
DECLARE
	v_detail text;
	v_value text;
BEGIN
	FOREACH v_value IN ARRAY ARRAY[repeat('a', 100000), repeat('10.0.0.0/8,', 65)] LOOP
		BEGIN
			PERFORM set_config('wahook.http_allowed_networks', v_value, false);
		EXCEPTION WHEN invalid_parameter_value THEN
			GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL;
			RAISE NOTICE '%', v_detail;
		END;
	END LOOP;
END
$$;
SHOW wahook.http_allowed_networks;

-- The signature that the specification gives as its example.
SELECT webhook_signature('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', to_timestamp(1614265330),
	'{"test": 2432232314}') = 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=' AS as_published;
-- By Python's hmac: an empty body, an id beyond ASCII, a key of one zero byte; of the time, whole seconds count.
SELECT webhook_signature(secret, 'ä', to_timestamp(1700000000.9), body) = 'v1,' || expected AS same
	FROM (VALUES ('whsec_AA==', '', 'TPiUaSz0g12W9t7csy9d8dvhDSuEvcc7zj01l2ocm1g=')) AS v (secret, body, expected);
SELECT webhook_signature('whsec_AAEC', 'id', to_timestamp(0), E'line\nline') = webhook_signature('AAEC', 'id', to_timestamp(0), E'line\nline');
SELECT webhook_signature('whsec_AAEC', 'id', to_timestamp(0), 'body') = webhook_signature('whsec_AAED', 'id', to_timestamp(0), 'body'),
	webhook_signature('whsec_AAEC', 'id', to_timestamp(0), 'body') = webhook_signature('whsec_AAEC', 'id', to_timestamp(1), 'body'),
	webhook_signature('whsec_AAEC', 'id', to_timestamp(0), 'body') = webhook_signature('whsec_AAEC', 'ie', to_timestamp(0), 'body');
SELECT length(webhook_signature('whsec_' || translate(encode(convert_to(repeat('k', 100000), 'UTF8'), 'base64'), E'\n', ''), 'id', 'infinity', repeat('x', 1000000)));
SELECT webhook_signature(NULL, 'id', now(), 'body'), webhook_signature('whsec_AAEC', NULL, now(), 'body'),
	webhook_signature('whsec_AAEC', 'id', NULL, 'body'), webhook_signature('whsec_AAEC', 'id', now(), NULL);
SELECT webhook_signature('whsec_', 'id', now(), 'body');
SELECT webhook_signature('no base64!', 'id', now(), 'body');
\echo :LAST_ERROR_SQLSTATE
