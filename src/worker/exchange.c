/*
 * One HTTP request by libcurl, and what came of it: its options, what libcurl calls while it runs,
 * and how its end is to be understood.
 *
 * Like http.c this file includes no header of the server, so that nothing in it can raise an error or
 * allocate in a memory context: libcurl does not survive being jumped out of. Memory is malloc'ed,
 * and bounded by what the request says.
 */
#include "worker/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <arpa/inet.h>

/* Of all headers of an answer together. */
#define MAX_HEADER_BYTES (64 * 1024)

/* How long certificates that were read from the CA file stay in memory. */
#define CA_CACHE_S 60L

/* --- what libcurl calls --- */

/* The only way to a connection: names have been resolved, and numbers in odd notations read. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	wahook_Exchange *exchange = arg;

	if (purpose != CURLSOCKTYPE_IPCXN ||
		!wahook_address_allowed(&address->addr, &exchange->networks))
	{
		exchange->refused = true;
		return CURL_SOCKET_BAD;
	}
	exchange->tried = true;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

#ifdef WAHOOK_CURL_HAS_PREREQ
/* A connection that is used again was opened under the networks of an earlier request. */
static int
check_connection(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	wahook_Exchange *exchange = arg;
	union
	{
		struct sockaddr any;
		struct sockaddr_in ipv4;
		struct sockaddr_in6 ipv6;
	} address;

	memset(&address, 0, sizeof(address));
	if (inet_pton(AF_INET, remote_ip, &address.ipv4.sin_addr) == 1)
		address.any.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, remote_ip, &address.ipv6.sin6_addr) == 1)
		address.any.sa_family = AF_INET6;
	if (address.any.sa_family != AF_UNSPEC &&
		wahook_address_allowed(&address.any, &exchange->networks))
		return CURL_PREREQFUNC_OK;
	exchange->refused = true;
	return CURL_PREREQFUNC_ABORT;
}
#endif

/* Keeps the value of Retry-After, without the line's end. */
static void
keep_retry_after(wahook_HttpAnswer *answer, const char *line, size_t len)
{
	static const char name[] = "retry-after:";
	const size_t name_len = sizeof(name) - 1;

	if (len < name_len || strncasecmp(line, name, name_len) != 0)
		return;
	line += name_len;
	len -= name_len;
	while (len > 0 && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len > 0 && strchr(" \t\r\n", line[len - 1]) != NULL)
		len--;
	if (len >= sizeof(answer->retry_after))
		return;
	memcpy(answer->retry_after, line, len);
	answer->retry_after[len] = '\0';
}

static size_t
on_header(char *line, size_t size, size_t n, void *arg)
{
	wahook_Exchange *exchange = arg;

	exchange->header_bytes += size * n;
	if (exchange->header_bytes > MAX_HEADER_BYTES)
		return 0;
	keep_retry_after(exchange->answer, line, size * n);
	return size * n;
}

/* What is beyond the bound is not read: the connection is closed. */
static size_t
on_body(char *bytes, size_t size, size_t n, void *arg)
{
	wahook_Exchange *exchange = arg;
	wahook_HttpAnswer *answer = exchange->answer;
	size_t len = size * n;
	size_t room = exchange->max_body - answer->body_len;
	size_t kept = len < room ? len : room;

	if (kept > 0)
	{
		char *larger = realloc(answer->body, answer->body_len + kept);

		if (larger == NULL)
			return 0;
		answer->body = larger;
		memcpy(answer->body + answer->body_len, bytes, kept);
		answer->body_len += kept;
	}
	answer->cut = kept < len;
	return kept;
}

/* --- the request --- */

void
wahook_free_exchange(wahook_Exchange *exchange)
{
	if (exchange->easy != NULL)
		curl_easy_cleanup(exchange->easy);
	curl_slist_free_all(exchange->headers);
	free(exchange->body);
	wahook_http_free_answer(exchange->answer);
	free(exchange);
}

/* A control character would end the header and begin another one. */
static bool
add_header(wahook_Exchange *exchange, const char *header, bool *valid)
{
	struct curl_slist *longer = curl_slist_append(exchange->headers, header);

	if (longer == NULL)
		return false;
	exchange->headers = longer;
	for (; *header != '\0'; header++)
		if ((unsigned char) *header < ' ' || *header == '\x7f')
			*valid = false;
	return true;
}

/* The parts of the exchange that are allocated. */
static CURLcode
allocate(wahook_Exchange *exchange, const wahook_HttpRequest *request)
{
	bool valid = true;

	exchange->answer = calloc(1, sizeof(wahook_HttpAnswer));
	exchange->easy = curl_easy_init();
	if (exchange->answer == NULL || exchange->easy == NULL)
		return CURLE_OUT_OF_MEMORY;
	if (request->body != NULL)
	{
		exchange->body = malloc(request->body_len + 1);
		if (exchange->body == NULL)
			return CURLE_OUT_OF_MEMORY;
		memcpy(exchange->body, request->body, request->body_len);
		/* Without this libcurl asks for a 100 Continue first, and waits for it. */
		if (!add_header(exchange, "Expect:", &valid))
			return CURLE_OUT_OF_MEMORY;
	}
	for (const char *const *header = request->headers; *header != NULL; header++)
		if (!add_header(exchange, *header, &valid))
			return CURLE_OUT_OF_MEMORY;
	return valid ? CURLE_OK : CURLE_URL_MALFORMAT;
}

/* Nothing comes from the environment, and nothing leads elsewhere. */
static CURLcode
set_where(wahook_Exchange *exchange, const wahook_HttpRequest *request)
{
	CURL *easy = exchange->easy;
	CURLcode code;

	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, exchange);
#ifdef WAHOOK_CURL_HAS_PREREQ
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, check_connection);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, exchange);
#else
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
	curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
#endif
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
#if LIBCURL_VERSION_NUM >= 0x075700
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, CA_CACHE_S);
	/* Do not wait for the resolver's thread when the request has timed out before it answered. */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
	if (request->ca_file != NULL)
	{
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
		if ((code = curl_easy_setopt(easy, CURLOPT_CAINFO, request->ca_file)) != CURLE_OK)
			return code;
	}
	if ((code = wahook_curl_set_protocols(easy, request->allow_http)) != CURLE_OK)
		return code;
	return curl_easy_setopt(easy, CURLOPT_URL, request->url);
}

static CURLcode
set_what(wahook_Exchange *exchange, const wahook_HttpRequest *request)
{
	CURL *easy = exchange->easy;

	curl_easy_setopt(easy, CURLOPT_PRIVATE, exchange);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->error);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "wahook/" WAHOOK_VERSION);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) request->timeout_ms);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) request->connect_timeout_ms);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->headers);
	if (exchange->body == NULL)
		return curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	return curl_easy_setopt(easy, CURLOPT_POSTFIELDS, exchange->body);
}

/* libcurl would make a guess at the scheme of a URL without one. */
static bool
has_scheme(const char *url, bool allow_http)
{
	return strncasecmp(url, "https://", 8) == 0 ||
		   (allow_http && strncasecmp(url, "http://", 7) == 0);
}

wahook_Exchange *
wahook_new_exchange(const wahook_HttpRequest *request, CURLcode *code)
{
	wahook_Exchange *exchange = calloc(1, sizeof(wahook_Exchange));

	if (exchange == NULL)
		return NULL;
	exchange->max_body = request->max_body;
	exchange->networks = *request->networks;
	exchange->done = request->done;
	exchange->arg = request->arg;
	*code = allocate(exchange, request);
	if (*code == CURLE_OK)
		*code = has_scheme(request->url, request->allow_http) ? CURLE_OK : CURLE_URL_MALFORMAT;
	if (*code == CURLE_OK)
		*code = set_where(exchange, request);
	if (*code == CURLE_OK)
		*code = set_what(exchange, request);
	if (*code != CURLE_OUT_OF_MEMORY)
		return exchange;
	wahook_free_exchange(exchange);
	return NULL;
}

/* --- how it ended --- */

static wahook_HttpOutcome
outcome_of(const wahook_Exchange *exchange, CURLcode code)
{
	switch (code)
	{
		case CURLE_OK:
			return WAHOOK_HTTP_ANSWERED;
		case CURLE_WRITE_ERROR:
			return exchange->answer->cut ? WAHOOK_HTTP_ANSWERED : WAHOOK_HTTP_BROKEN;
		case CURLE_OPERATION_TIMEDOUT:
			return WAHOOK_HTTP_TIMED_OUT;
		case CURLE_COULDNT_CONNECT:
			return exchange->refused && !exchange->tried ? WAHOOK_HTTP_ADDRESS_REFUSED
														 : WAHOOK_HTTP_BROKEN;
		case CURLE_ABORTED_BY_CALLBACK:
			return exchange->refused ? WAHOOK_HTTP_ADDRESS_REFUSED : WAHOOK_HTTP_BROKEN;
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_USE_SSL_FAILED:
			return WAHOOK_HTTP_BAD_TLS;
		case CURLE_URL_MALFORMAT:
		case CURLE_LOGIN_DENIED:
			return WAHOOK_HTTP_BAD_REQUEST;
		default:
			return WAHOOK_HTTP_BROKEN;
	}
}

static void
describe(wahook_HttpAnswer *answer, const wahook_Exchange *exchange, CURLcode code)
{
	const char *problem = exchange->error[0] ? exchange->error : curl_easy_strerror(code);

	switch (answer->outcome)
	{
		case WAHOOK_HTTP_ANSWERED:
			return;
		case WAHOOK_HTTP_ADDRESS_REFUSED:
			problem = "its address is not in an allowed network";
			break;
		case WAHOOK_HTTP_BAD_REQUEST:
			/* libcurl's own words may quote the URL, and with it a password. */
			problem = "the URL is not valid, its scheme not allowed, or a header not valid";
			break;
		default:
			if (exchange->header_bytes > MAX_HEADER_BYTES)
				problem = "the headers of the answer are too long";
	}
	snprintf(answer->problem, sizeof(answer->problem), "%s", problem);
}

void
wahook_end_exchange(wahook_Exchange *exchange, CURLcode code)
{
	wahook_HttpAnswer *answer = exchange->answer;
	long status = 0;
	curl_off_t duration_us = 0;

	curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(exchange->easy, CURLINFO_TOTAL_TIME_T, &duration_us);
	answer->outcome = outcome_of(exchange, code);
	answer->status = (int) status;
	answer->duration_us = duration_us;
	describe(answer, exchange, code);
}
