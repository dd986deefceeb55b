/*
 * HTTP requests in the worker: they are driven by a source of their own, for all sources that start
 * some.
 */
#ifndef WAHOOK_REQUESTS_H
#define WAHOOK_REQUESTS_H

#include "postgres.h"

#include "lib/ilist.h"

#include "worker/http.h"
#include "worker/worker.h"

/*
 * As wahook_http_start(), with what the settings say of connecting, of networks and certificates, and
 * of the size of answers where max_body is 0. The done function runs in the turn of the requests' source.
 */
extern bool wahook_start_request(const wahook_HttpRequest *request);

/*
 * For a source that stops: waits for answers while *under_way has some, but not for long: two seconds
 * are all that the sources have together. over() is called after each turn of the requests.
 */
extern void wahook_await_answers(dlist_head *under_way, void (*over)(void));

/*
 * How many more a service may start that has its own number of them under way, of all that there are:
 * up to its concurrency, and all together wahook.http_max_connections. One that has none may always
 * start one, up to twice that number, so that services that hang can't use up all there is.
 */
extern int wahook_free_slots(int own, int all, int concurrency);

/* What is kept of an answer with the error, the beginning of its body; null: there is none. */
extern text *wahook_kept_body(const wahook_HttpAnswer *answer);

/* What can't be done for the moment is tried again after 100 ms, 200 ms, ... up to the longest pause. */
extern int64 wahook_longer_pause(int64 pause_us, int64 longest_us);

/* Appends one list to another. */
extern void wahook_move_all(dlist_head *from, dlist_head *to);

#endif
