/*
 * Counting requests to endpoints, by how they ended.
 */
#ifndef WAHOOK_HTTP_COUNT_H
#define WAHOOK_HTTP_COUNT_H

#include "worker/http.h"

/* At once: a request happened, whatever becomes of what is recorded of it. */
extern void wahook_count_http_attempt(const char *service, const wahook_HttpAnswer *answer);

#endif
