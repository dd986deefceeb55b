/*
 * HTTP requests by libcurl's multi interface: which of them are under way, what they wait for.
 *
 * This file includes no header of the server, see exchange.c.
 *
 * libcurl resolves names in threads of its own. A thread takes signals like the process it is part
 * of, and the server's signal handlers are made for one thread; so each call that may start one
 * runs with all signals blocked, which a thread inherits.
 */
#include "worker/http.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/exchange.h"

static CURLM *multi;

/* Requests whose done has to be called, in the order of their ends. */
static wahook_Exchange *ended;
static wahook_Exchange **ended_last = &ended;

static wahook_HttpSocket *sockets;
static int nsockets;
static int max_sockets;
static unsigned sockets_changed;

/* When libcurl wants to be called; -1: not by time. */
static int64_t timer_ms = -1;

static int64_t
clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
block_signals(sigset_t *before)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* --- what libcurl calls --- */

static wahook_HttpSocket *
find_socket(int fd)
{
	for (int i = 0; i < nsockets; i++)
		if (sockets[i].fd == fd)
			return &sockets[i];
	return NULL;
}

static wahook_HttpSocket *
new_socket(void)
{
	if (nsockets == max_sockets)
	{
		int size = max_sockets ? 2 * max_sockets : 16;
		wahook_HttpSocket *larger = realloc(sockets, size * sizeof(*sockets));

		if (larger == NULL)
			return NULL;
		sockets = larger;
		max_sockets = size;
	}
	return &sockets[nsockets++];
}

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	wahook_HttpSocket *sock = find_socket(fd);

	sockets_changed++;
	if (what == CURL_POLL_REMOVE)
	{
		if (sock != NULL)
			*sock = sockets[--nsockets];
		return 0;
	}
	if (sock == NULL && (sock = new_socket()) == NULL)
		return -1;
	sock->fd = fd;
	sock->read = what & CURL_POLL_IN;
	sock->write = what & CURL_POLL_OUT;
	return 0;
}

static int
on_timer(CURLM *of, long timeout_ms, void *arg)
{
	timer_ms = timeout_ms < 0 ? -1 : clock_ms() + timeout_ms;
	return 0;
}

/* --- starting and ending --- */

static bool
start_libcurl(void)
{
	if (multi != NULL)
		return true;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || (multi = curl_multi_init()) == NULL)
		return false;
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	/* A connection carries one request at a time, also in HTTP/2: what breaks it breaks no other. */
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);
	return true;
}

static void
end(wahook_Exchange *exchange, CURLcode code)
{
	wahook_end_exchange(exchange, code);
	exchange->next = NULL;
	*ended_last = exchange;
	ended_last = &exchange->next;
}

bool
wahook_http_start(const wahook_HttpRequest *request)
{
	wahook_Exchange *exchange = NULL;
	CURLcode code;
	sigset_t before;

	block_signals(&before);
	if (start_libcurl())
		exchange = wahook_new_exchange(request, &code);
	if (exchange != NULL && code != CURLE_OK)
		end(exchange, code);
	else if (exchange != NULL && curl_multi_add_handle(multi, exchange->easy) != CURLM_OK)
	{
		wahook_free_exchange(exchange);
		exchange = NULL;
	}
	restore_signals(&before);
	return exchange != NULL;
}

void
wahook_http_free_answer(wahook_HttpAnswer *answer)
{
	if (answer == NULL)
		return;
	free(answer->body);
	free(answer);
}

/* Lets libcurl go on, and takes what it has done with out of its hands. */
static void
go_on(int fd, int events)
{
	CURLMsg *message;
	sigset_t before;
	int count;

	block_signals(&before);
	curl_multi_socket_action(multi, fd, events, &count);
	while ((message = curl_multi_info_read(multi, &count)) != NULL)
	{
		wahook_Exchange *exchange;
		CURLcode code = message->data.result;
		CURL *easy = message->easy_handle;

		curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **) &exchange);
		curl_multi_remove_handle(multi, easy);
		end(exchange, code);
	}
	restore_signals(&before);
}

/* --- what the process that waits calls --- */

int
wahook_http_sockets(const wahook_HttpSocket **list, unsigned *changed)
{
	*list = sockets;
	*changed = sockets_changed;
	return nsockets;
}

int
wahook_http_timeout_ms(void)
{
	int64_t left;

	if (ended != NULL)
		return 0;
	if (timer_ms < 0)
		return -1;
	left = timer_ms - clock_ms();
	return left < 0 ? 0 : (int) left;
}

void
wahook_http_ready(int fd, bool read, bool write)
{
	if (find_socket(fd) == NULL)
		return;
	go_on(fd, (read ? CURL_CSELECT_IN : 0) | (write ? CURL_CSELECT_OUT : 0));
}

void
wahook_http_wait(int timeout_ms)
{
	struct pollfd *polled = calloc(nsockets + 1, sizeof(*polled));
	int n = nsockets;
	int own_ms = wahook_http_timeout_ms();

	if (polled == NULL)
		return;
	for (int i = 0; i < n; i++)
		polled[i] = (struct pollfd){.fd = sockets[i].fd,
									.events = (sockets[i].read ? POLLIN : 0) |
											  (sockets[i].write ? POLLOUT : 0)};
	if (poll(polled, n, own_ms >= 0 && own_ms < timeout_ms ? own_ms : timeout_ms) > 0)
	{
		for (int i = 0; i < n; i++)
			if (polled[i].revents != 0)
				wahook_http_ready(polled[i].fd, polled[i].revents & (POLLIN | POLLHUP | POLLERR),
								  polled[i].revents & POLLOUT);
	}
	free(polled);
}

void
wahook_http_turn(void)
{
	if (timer_ms >= 0 && timer_ms <= clock_ms())
	{
		timer_ms = -1;
		go_on(CURL_SOCKET_TIMEOUT, 0);
	}
	while (ended != NULL)
	{
		wahook_Exchange *exchange = ended;
		wahook_HttpAnswer *answer = exchange->answer;
		wahook_HttpDone done = exchange->done;
		void *arg = exchange->arg;

		ended = exchange->next;
		if (ended == NULL)
			ended_last = &ended;
		exchange->answer = NULL;
		wahook_free_exchange(exchange);
		done(arg, answer);
	}
}
