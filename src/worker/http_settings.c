/*
 * The wahook.http_* settings: their bounds, defaults and descriptions, and webhook_address_allowed(),
 * which tells what one of them means.
 *
 * They say what the server may be made to connect to and whom it trusts, so superusers set them.
 */
#include "worker/http_settings.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/inet.h"

#include "core/compat.h"

#include <netinet/in.h>

int wahook_http_connect_timeout_ms;
int wahook_http_max_connections;
int wahook_http_max_response_kb;
char *wahook_http_ca_file;

static char *allowed_networks;

PG_FUNCTION_INFO_V1(wahook_webhook_address_allowed);

static bool
check_allowed_networks(char **value, void **extra, GucSource source)
{
	wahook_Networks networks;
	const char *bad;
	size_t bad_len;

	if (wahook_read_networks(*value, &networks, &bad, &bad_len))
		return true;
	if (bad == NULL)
		GUC_check_errdetail("There are more than %d networks.", WAHOOK_MAX_NETWORKS);
	else
		GUC_check_errdetail("\"%.*s\" is no network.", (int) Min(bad_len, 64), bad);
	GUC_check_errhint(
		"Write networks as 10.1.0.0/16 or fd00:1::/32, with zeros behind the prefix, or the word \"public\".");
	return false;
}

void
wahook_http_allowed_networks(wahook_Networks *networks)
{
	const char *bad;
	size_t bad_len;

	/* The value has been checked. */
	(void) wahook_read_networks(allowed_networks, networks, &bad, &bad_len);
}

void
wahook_define_http_settings(void)
{
	DefineCustomStringVariable("wahook.http_allowed_networks",
							   "The networks that requests may go to, after the name is resolved.",
							   "\"public\" stands for all public addresses.", &allowed_networks,
							   WAHOOK_DEFAULT_HTTP_NETWORKS, PGC_SUSET, 0, check_allowed_networks,
							   NULL, NULL);
	DefineCustomStringVariable("wahook.http_ca_file",
							   "The file of certificates that endpoints' certificates are checked against.",
							   "Empty: those of the system.", &wahook_http_ca_file, "", PGC_SUSET,
							   GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.http_connect_timeout",
							"How long connecting to an endpoint may take.",
							"Name resolution and TLS included.", &wahook_http_connect_timeout_ms,
							WAHOOK_DEFAULT_HTTP_CONNECT_TIMEOUT_MS, 1,
							WAHOOK_MAX_HTTP_CONNECT_TIMEOUT_MS, PGC_SUSET, GUC_UNIT_MS, NULL, NULL,
							NULL);
	DefineCustomIntVariable("wahook.http_max_connections",
							"The most requests of a database's worker at once.", NULL,
							&wahook_http_max_connections, WAHOOK_DEFAULT_HTTP_CONNECTIONS, 1,
							WAHOOK_MAX_HTTP_CONNECTIONS, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.http_max_response",
							"The most of an answer's body that is read.", NULL,
							&wahook_http_max_response_kb, WAHOOK_DEFAULT_HTTP_RESPONSE_KB, 1,
							WAHOOK_MAX_HTTP_RESPONSE_KB, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* webhook_address_allowed(p_address inet) → boolean */
Datum
wahook_webhook_address_allowed(PG_FUNCTION_ARGS)
{
	inet *given = PG_GETARG_INET_PP(0);
	wahook_Networks networks;
	struct sockaddr_in ipv4 = {.sin_family = AF_INET};
	struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};

	wahook_http_allowed_networks(&networks);
	if (ip_family(given) == PGSQL_AF_INET)
	{
		memcpy(&ipv4.sin_addr, ip_addr(given), sizeof(ipv4.sin_addr));
		PG_RETURN_BOOL(wahook_address_allowed((struct sockaddr *) &ipv4, &networks));
	}
	memcpy(&ipv6.sin6_addr, ip_addr(given), sizeof(ipv6.sin6_addr));
	PG_RETURN_BOOL(wahook_address_allowed((struct sockaddr *) &ipv6, &networks));
}
