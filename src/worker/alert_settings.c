/*
 * The settings of alerts. The URL is kept as a secret is: those of chat services are one.
 */
#include "worker/alert_settings.h"

#include "postgres.h"

#include "utils/guc.h"

#include "core/compat.h"
#include "core/settings.h"

#define DEFAULT_INTERVAL_S 30
#define DEFAULT_HOLD_TIME_S 300
#define MAX_S (24 * 3600)

const char *wahook_alert_url;
const char *wahook_alert_secret;
int wahook_alert_interval_s;

static void
assign_url(const char *newval, void *extra)
{
	wahook_alert_url = wahook_hidden_secret(extra);
}

static const char *
show_url(void)
{
	return wahook_shown_secret(wahook_alert_url);
}

static void
assign_secret(const char *newval, void *extra)
{
	wahook_alert_secret = wahook_hidden_secret(extra);
}

static const char *
show_secret(void)
{
	return wahook_shown_secret(wahook_alert_secret);
}

void
wahook_define_alert_settings(void)
{
	static char *shown_url;
	static char *shown_secret;
	static int hold_time_s;

	DefineCustomStringVariable("wahook.alert_url", "Where alerts are POSTed to by the worker.",
							   "Empty: nowhere. It is shown to nobody.", &shown_url, "", PGC_SUSET,
							   WAHOOK_GUC_SECRET, wahook_hide_secret, assign_url, show_url);
	DefineCustomStringVariable("wahook.alert_secret",
							   "What the requests to wahook.alert_url are signed with.",
							   "As in Standard Webhooks; two, separated by a comma, while it is being rotated.",
							   &shown_secret, "", PGC_SUSET, WAHOOK_GUC_SECRET, wahook_hide_secret,
							   assign_secret, show_secret);
	DefineCustomIntVariable("wahook.alert_interval", "How often the worker looks for alerts.",
							"0 turns it off.", &wahook_alert_interval_s, DEFAULT_INTERVAL_S, 0,
							MAX_S, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.alert_hold_time",
							"How long an alert must have stayed away to be told of as resolved.",
							"One that comes back within this time is not told of again.",
							&hold_time_s, DEFAULT_HOLD_TIME_S, 0, MAX_S, PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
}
