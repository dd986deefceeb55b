/*
 * The wahook.http_* settings.
 */
#ifndef WAHOOK_HTTP_SETTINGS_H
#define WAHOOK_HTTP_SETTINGS_H

#include "postgres.h"

#include "worker/address.h"

#define WAHOOK_DEFAULT_HTTP_NETWORKS "public"
#define WAHOOK_DEFAULT_HTTP_CONNECT_TIMEOUT_MS 5000
#define WAHOOK_MAX_HTTP_CONNECT_TIMEOUT_MS (10 * 60 * 1000)
#define WAHOOK_DEFAULT_HTTP_CONNECTIONS 100
#define WAHOOK_MAX_HTTP_CONNECTIONS 1000
#define WAHOOK_DEFAULT_HTTP_RESPONSE_KB 64
#define WAHOOK_MAX_HTTP_RESPONSE_KB (16 * 1024)

extern int wahook_http_connect_timeout_ms;
extern int wahook_http_max_connections;
extern int wahook_http_max_response_kb;
extern char *wahook_http_ca_file; /* empty: the system's certificates */

/* wahook.http_allowed_networks as it is now. */
extern void wahook_http_allowed_networks(wahook_Networks *networks);

extern void wahook_define_http_settings(void);

#endif
