/*
 * One HTTP request by libcurl, and what came of it so far. For http.c alone.
 */
#ifndef WAHOOK_EXCHANGE_H
#define WAHOOK_EXCHANGE_H

#include "worker/curl.h"
#include "worker/http.h"

typedef struct wahook_Exchange
{
	CURL *easy;
	struct curl_slist *headers;
	char *body;
	size_t max_body;
	size_t header_bytes;
	wahook_Networks networks;
	bool refused; /* one of its addresses */
	bool tried;   /* another one */
	char error[CURL_ERROR_SIZE];
	wahook_HttpDone done;
	void *arg;
	wahook_HttpAnswer *answer;
	struct wahook_Exchange *next; /* of those that have ended */
} wahook_Exchange;

/* Ready for curl_multi_add_handle(), but where *code says why not. Null: not enough memory. */
extern wahook_Exchange *wahook_new_exchange(const wahook_HttpRequest *request, CURLcode *code);

/* Fills in the answer. */
extern void wahook_end_exchange(wahook_Exchange *exchange, CURLcode code);
extern void wahook_free_exchange(wahook_Exchange *exchange);

#endif
