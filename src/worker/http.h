/*
 * HTTP requests, many at once in one process, without waiting. Knows nothing of tables, and nothing
 * of the server: what it needs to know is in the request.
 *
 * The process that uses it waits for the sockets that wahook_http_sockets() names, for at most
 * wahook_http_timeout_ms(), tells of those that are ready, and calls wahook_http_turn(). Each
 * request that was started ends in one call of its done function, within its timeout.
 */
#ifndef WAHOOK_HTTP_H
#define WAHOOK_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/address.h"

#define WAHOOK_HTTP_PROBLEM_SIZE 256
#define WAHOOK_HTTP_RETRY_AFTER_SIZE 64

typedef enum wahook_HttpOutcome
{
	WAHOOK_HTTP_ANSWERED,        /* status is what the endpoint answered */
	WAHOOK_HTTP_TIMED_OUT,       /* it may have done its work */
	WAHOOK_HTTP_BROKEN,          /* no connection, or it ended before the answer did */
	WAHOOK_HTTP_BAD_TLS,         /* no TLS that can be trusted; nothing was sent */
	WAHOOK_HTTP_ADDRESS_REFUSED, /* the networks do not allow its address; nothing was sent */
	WAHOOK_HTTP_BAD_REQUEST      /* a URL or header that is none; nothing was sent */
} wahook_HttpOutcome;

/* The answer. Freed by wahook_http_free_answer(). */
typedef struct wahook_HttpAnswer
{
	wahook_HttpOutcome outcome;
	int status;                             /* 0: none came */
	char problem[WAHOOK_HTTP_PROBLEM_SIZE]; /* why there is no answer; holds neither URL nor headers */
	char retry_after[WAHOOK_HTTP_RETRY_AFTER_SIZE]; /* empty: no such header */
	char *body;                                     /* any bytes, zeros too; null: none */
	size_t body_len;
	bool cut; /* the body was longer than asked for */
	int64_t duration_us;
} wahook_HttpAnswer;

/* Called by wahook_http_turn(), and may start other requests. It owns the answer from then on. */
typedef void (*wahook_HttpDone)(void *arg, wahook_HttpAnswer *answer);

/* All of it is copied. */
typedef struct wahook_HttpRequest
{
	const char *url;
	bool allow_http;            /* without TLS */
	const char *const *headers; /* "Name: value", the last one null */
	const char *body;           /* null: a GET */
	size_t body_len;
	int timeout_ms; /* of all of it */
	int connect_timeout_ms;
	size_t max_body;     /* of the answer's body, as much is kept */
	const char *ca_file; /* certificates to trust; null: the system's */
	const wahook_Networks *networks;
	wahook_HttpDone done;
	void *arg;
} wahook_HttpRequest;

/* A socket to wait for. */
typedef struct wahook_HttpSocket
{
	int fd;
	bool read;
	bool write;
} wahook_HttpSocket;

/* False when there is not enough memory: then done is not called. Starts nothing by itself: that is for the turn. */
extern bool wahook_http_start(const wahook_HttpRequest *request);

/* Until the next call of another function. changed is counted up with every change of the list. */
extern int wahook_http_sockets(const wahook_HttpSocket **list, unsigned *changed);

/* -1: as long as one likes. */
extern int wahook_http_timeout_ms(void);
extern void wahook_http_ready(int fd, bool read, bool write);

/* Waits by itself, at most so long, for a process that is about to end. A signal ends the wait. */
extern void wahook_http_wait(int timeout_ms);
extern void wahook_http_turn(void);

/* Null is nothing to free. */
extern void wahook_http_free_answer(wahook_HttpAnswer *answer);

#endif
