/*
 * Feeds src/worker/address.c and src/worker/retry_after.c with mutations of what they read, always
 * the same, and src/worker/judge.c with every status.
 *
 * Whatever the text: they end, a span that is complained of lies inside the text, a list that was
 * read admits the addresses it names, and a Retry-After is within its bounds. Run under the address
 * and undefined behaviour sanitizers, which watch the rest.
 *
 *   http INPUTS
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/address.h"
#include "worker/judge.h"
#include "worker/retry_after.h"

#define MAX_LENGTH 256
#define MAX_WAIT 3600
#define NOW 1700000000
#define SEED 20260101u

static const char *const seeds[] = {
	"public",
	"10.0.0.0/8, public",
	"127.0.0.1 ::1\tfd00::/8,, 192.168.1.0/24",
	"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128",
	"::ffff:127.0.0.1/128,64:ff9b::/96,::/0,0.0.0.0/0",
	"fe80::1%eth0 1.2.3.4/33 ::1/129 10.0.0.1/8",
	"120",
	"99999999999999999999999999999999",
	"Tue, 14 Nov 2023 22:15:20 GMT",
	"Tuesday, 14-Nov-23 22:15:20 GMT",
	"Tue Nov 14 22:15:20 2023",
	" 7 \t",
	"-1",
	"",
};

static const char *current;

static void
fail(const char *what)
{
	fprintf(stderr, "http: %s\nthe text: %s\n", what, current);
	exit(1);
}

#define CHECK(condition) ((condition) ? (void) 0 : fail(#condition))

static uint32_t
next_random(uint32_t bound)
{
	static uint64_t state = SEED;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t) (state >> 33) % bound;
}

/* Whether a list admits the first address of a network of it. */
static bool
admits(const wahook_Networks *networks, const wahook_Network *network)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6};

	/* An IPv4 address is given as the IPv6 address that it is mapped to. */
	memcpy(&address.sin6_addr, network->address, WAHOOK_ADDRESS_BYTES);
	return wahook_address_allowed((struct sockaddr *) &address, networks);
}

static void
check(const char *text)
{
	wahook_Networks networks;
	const char *bad = text;
	size_t bad_len = 0;
	int64_t wait;

	current = text;
	if (wahook_read_networks(text, &networks, &bad, &bad_len))
	{
		for (int i = 0; i < networks.n; i++)
			CHECK(admits(&networks, &networks.list[i]));
	}
	else if (bad != NULL)
	{
		CHECK(bad >= text && bad_len > 0 && bad + bad_len <= text + strlen(text));
	}
	wait = wahook_retry_after_s(text, NOW, MAX_WAIT);
	CHECK(wait == -1 || (wait >= 1 && wait <= MAX_WAIT));
}

/* A copy of exactly its length, so that the sanitizer sees what is read beyond it. */
static void
check_copy(const char *bytes, size_t len)
{
	char *text = malloc(len + 1);

	if (text == NULL)
		abort();
	memcpy(text, bytes, len);
	text[len] = '\0';
	check(text);
	free(text);
}

static void
mutate(void)
{
	static const char likely[] = "0123456789abcdef.:/, \t-%GMT";
	char text[MAX_LENGTH];
	size_t len = 0;

	for (uint32_t parts = 1 + next_random(3); parts > 0; parts--)
	{
		const char *seed = seeds[next_random(sizeof(seeds) / sizeof(seeds[0]))];
		size_t seed_len = strlen(seed);

		if (len + seed_len + 1 >= sizeof(text))
			break;
		memcpy(text + len, seed, seed_len);
		len += seed_len;
		text[len++] = next_random(2) ? ',' : ' ';
	}
	for (uint32_t changes = next_random(4); changes > 0 && len > 0; changes--)
	{
		size_t at = next_random(len);

		if (next_random(3) > 0)
			text[at] = likely[next_random(sizeof(likely) - 1)];
		else
		{
			memmove(text + at, text + at + 1, len - at - 1);
			len--;
		}
	}
	check_copy(text, len);
}

static void
expect_wait(const char *value, int64_t seconds)
{
	current = value;
	CHECK(wahook_retry_after_s(value, NOW, MAX_WAIT) == seconds);
}

static void
expect_judgement(int from, int to, bool success, bool retryable, bool endpoint_works)
{
	for (int status = from; status <= to; status++)
	{
		wahook_HttpAnswer answer = {.outcome = WAHOOK_HTTP_ANSWERED, .status = status};
		wahook_Judgement judgement = wahook_judge(&answer);
		char text[64];

		wahook_describe_failure(&answer, text, sizeof(text));
		current = text;
		CHECK(judgement.success == success);
		CHECK(success || judgement.retryable == retryable);
		CHECK(judgement.endpoint_works == endpoint_works);
		/* Whatever the status, once the answer broke off there is none. */
		answer.outcome = WAHOOK_HTTP_BROKEN;
		judgement = wahook_judge(&answer);
		CHECK(!judgement.success && judgement.retryable && !judgement.endpoint_works);
	}
}

static void
check_judgements(void)
{
	wahook_Judgement none = wahook_judge(NULL);

	CHECK(!none.success && none.retryable && !none.endpoint_works);
	expect_judgement(0, 199, false, false, false);
	expect_judgement(200, 299, true, false, true);
	expect_judgement(300, 399, false, false, false);
	expect_judgement(400, 400, false, false, true);
	expect_judgement(401, 401, false, false, false);
	expect_judgement(402, 402, false, false, true);
	expect_judgement(403, 405, false, false, false);
	expect_judgement(406, 406, false, false, true);
	expect_judgement(407, 407, false, false, false);
	expect_judgement(408, 408, false, true, false);
	expect_judgement(409, 409, false, false, true);
	expect_judgement(410, 410, false, false, false);
	expect_judgement(411, 424, false, false, true);
	expect_judgement(425, 425, false, true, false);
	expect_judgement(426, 428, false, false, true);
	expect_judgement(429, 429, false, true, false);
	expect_judgement(430, 499, false, false, true);
	expect_judgement(500, 999, false, true, false);
}

int
main(int argc, char **argv)
{
	unsigned long inputs = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;

	/* NOW is Tue, 14 Nov 2023 22:13:20 GMT. */
	expect_wait("0", 1);
	expect_wait("7", 7);
	expect_wait(" 7 ", 7);
	expect_wait("7200", MAX_WAIT);
	expect_wait("99999999999999999999999999999999", MAX_WAIT);
	expect_wait("Tue, 14 Nov 2023 22:15:20 GMT", 120);
	expect_wait("Tuesday, 14-Nov-23 22:15:20 GMT", 120);
	expect_wait("Tue Nov 14 22:15:20 2023", 120);
	expect_wait("Tue, 14 Nov 2023 22:10:00 GMT", 1);
	expect_wait("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT);
	expect_wait("7s", -1);
	expect_wait("7 8", -1);
	expect_wait("-7", -1);
	expect_wait("1.5", -1);
	expect_wait("soon", -1);
	expect_wait("", -1);
	expect_wait(NULL, -1);

	check_judgements();
	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
		check_copy(seeds[i], strlen(seeds[i]));
	for (unsigned long i = 0; i < inputs; i++)
		mutate();
	return 0;
}
