/*
 * HTTP requests in the worker: the source that drives them. Its turn comes before those of the sources
 * that start requests, so that these find what has ended.
 */
#include "worker/requests.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "worker/http_settings.h"
#include "worker/safe_text.h"

/* How long answers are waited for when the worker is to end. */
#define STOP_WAIT_US (2 * USECS_PER_SEC)

#define FIRST_PAUSE_US (100 * INT64CONST(1000))

/* How much of an answer's body is kept with the error. */
#define KEPT_BODY 4096

bool
wahook_start_request(const wahook_HttpRequest *request)
{
	wahook_Networks networks;
	wahook_HttpRequest whole = *request;

	whole.connect_timeout_ms = wahook_http_connect_timeout_ms;
	if (whole.max_body == 0)
		whole.max_body = (size_t) wahook_http_max_response_kb * 1024;
	whole.ca_file = wahook_http_ca_file[0] ? wahook_http_ca_file : NULL;
	whole.networks = &networks;
	wahook_http_allowed_networks(&networks);
	wahook_source_is_due(&wahook_requests_source);
	return wahook_http_start(&whole);
}

void
wahook_await_answers(dlist_head *under_way, void (*over)(void))
{
	static TimestampTz until = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (until == 0)
		until = now + STOP_WAIT_US;
	for (;;)
	{
		wahook_http_turn();
		over();
		now = GetCurrentTimestamp();
		if (dlist_is_empty(under_way) || now >= until || wahook_extension_is_gone())
			break;
		wahook_http_wait((until - now) / 1000 + 1);
	}
}

int
wahook_free_slots(int own, int all, int concurrency)
{
	int slots = Min(concurrency - own, wahook_http_max_connections - all);

	if (own == 0 && all < 2 * wahook_http_max_connections)
		slots = Max(slots, 1);
	return Max(slots, 0);
}

text *
wahook_kept_body(const wahook_HttpAnswer *answer)
{
	if (answer == NULL || answer->body_len == 0)
		return NULL;
	return cstring_to_text(wahook_safe_text(answer->body, answer->body_len, KEPT_BODY));
}

int64
wahook_longer_pause(int64 pause_us, int64 longest_us)
{
	return pause_us == 0 ? FIRST_PAUSE_US : Min(2 * pause_us, longest_us);
}

void
wahook_move_all(dlist_head *from, dlist_head *to)
{
	while (!dlist_is_empty(from))
		dlist_push_tail(to, dlist_pop_head_node(from));
}

static TimestampTz
turn(TimestampTz now, int heard)
{
	int timeout_ms;

	wahook_http_turn();
	timeout_ms = wahook_http_timeout_ms();
	return timeout_ms < 0 ? DT_NOEND : GetCurrentTimestamp() + timeout_ms * INT64CONST(1000);
}

static int
sockets(wahook_Socket *wanted, int max, unsigned *changed)
{
	const wahook_HttpSocket *list;
	int n = Min(wahook_http_sockets(&list, changed), max);

	for (int i = 0; i < n; i++)
	{
		wanted[i].fd = list[i].fd;
		wanted[i].events =
			(list[i].read ? WL_SOCKET_READABLE : 0) | (list[i].write ? WL_SOCKET_WRITEABLE : 0);
	}
	return n;
}

static void
on_socket(pgsocket fd, uint32 events)
{
	wahook_http_ready(fd, events & WL_SOCKET_READABLE, events & WL_SOCKET_WRITEABLE);
}

const wahook_Source wahook_requests_source = {.name = "HTTP requests",
											  .turn = turn,
											  .sockets = sockets,
											  .on_socket = on_socket};
