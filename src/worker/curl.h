/*
 * What differs between the versions of libcurl, from 7.68 on, and nothing else.
 */
#ifndef WAHOOK_CURL_H
#define WAHOOK_CURL_H

#include <curl/curl.h>

/* Since 7.85 protocols are named. */
#if LIBCURL_VERSION_NUM >= 0x075500
#define wahook_curl_set_protocols(easy, allow_http) \
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, (allow_http) ? "http,https" : "https")
#else
#define wahook_curl_set_protocols(easy, allow_http) \
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, \
					 (long) ((allow_http) ? CURLPROTO_HTTP | CURLPROTO_HTTPS : CURLPROTO_HTTPS))
#endif

/*
 * Since 7.80 the address of a connection that is used again can be looked at. Before that none may
 * be used again, because the allowed networks may have changed meanwhile.
 */
#if LIBCURL_VERSION_NUM >= 0x075000
#define WAHOOK_CURL_HAS_PREREQ 1
#endif

#endif
