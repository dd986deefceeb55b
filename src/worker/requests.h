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

#endif
