/*
 * The wahook.* settings: their bounds, defaults and descriptions, in one place.
 * All can be changed by a reload; none sizes shared memory.
 */
#include "core/settings.h"

#include <limits.h>

#include "access/parallel.h"
#include "utils/guc.h"

#include "core/compat.h"

const char *wahook_app_secret;
const char *wahook_verify_token;
static char *shown_app_secret;
static char *shown_verify_token;
bool wahook_require_signature;
int wahook_max_body_kb;
int wahook_max_json_depth;

int wahook_lock_timeout_s;
int wahook_processing_timeout_ms;
int wahook_stuck_timeout_s;
int wahook_max_attempts;
int wahook_claim_max_messages;

int wahook_dlq_base_delay_s;
int wahook_dlq_max_delay_s;
int wahook_dlq_max_retries;
double wahook_dlq_jitter;
int wahook_dlq_batch_size;

int wahook_session_ttl_s;
static int agent_session_timeout_s;
static int agent_memory_kb;
int wahook_retention_batch_size;

/* PostgreSQL 16 and later assert that the value of an enum is its default from the start. */
int wahook_log_events = WAHOOK_LOG_PROBLEMS;
bool wahook_log_error_texts;

char *wahook_token_counter;

#define DAY_S (24 * 3600)
#define MAX_RETENTION_S (10 * 365 * DAY_S)

/* Meta repeats a delivery for up to 7 days: forgetting a message sooner would accept it twice. */
#define MIN_MESSAGE_RETENTION_S (7 * DAY_S)

typedef struct Retention
{
	const char *name;
	const char *what;
	int default_s;
	int min_s;
	int value_s;
} Retention;

/* Read through current_setting() by the retention job; the values here are only their storage. */
static Retention retentions[] = {
	{"wahook.message_retention",
	 "How long accepted messages are kept and duplicates of them recognised.", 30 * DAY_S,
	 MIN_MESSAGE_RETENTION_S, 0},
	{"wahook.status_retention", "How long the statuses of sent messages are kept.", 30 * DAY_S,
	 DAY_S, 0},
	{"wahook.notice_retention", "How long notices are kept and duplicates of them recognised.",
	 30 * DAY_S, MIN_MESSAGE_RETENTION_S, 0},
	{"wahook.quarantine_retention", "How long quarantined input is kept after it was last seen.",
	 90 * DAY_S, DAY_S, 0},
	{"wahook.attempt_retention", "How long delivery attempts are kept.", 30 * DAY_S, 3600, 0},
	{"wahook.transition_retention", "How long the audit rows of status changes are kept.",
	 90 * DAY_S, DAY_S, 0},
	{"wahook.dlq_resolved_retention", "How long resolved dead letters are kept.", 7 * DAY_S, 3600,
	 0},
	{"wahook.dlq_failed_retention", "How long dead letters that were given up are kept.",
	 90 * DAY_S, DAY_S, 0},
	{"wahook.conversation_retention", "How long conversations are kept after their last activity.",
	 365 * DAY_S, DAY_S, 0},
	{"wahook.agent_session_retention", "How long ended agent sessions are kept.", 90 * DAY_S, DAY_S,
	 0},
	{"wahook.agent_version_retention",
	 "How long versions of agents are kept after they were replaced.", 365 * DAY_S, DAY_S, 0},
	{"wahook.circuit_retention", "How long circuits are kept after they were last used.", DAY_S,
	 3600, 0},
	{"wahook.alert_retention", "How long alerts are kept after they were resolved.", 90 * DAY_S,
	 DAY_S, 0},
	{"wahook.rollup_retention", "How long the sums of each hour and samples of the queue are kept.",
	 90 * DAY_S, 2 * DAY_S, 0},
	{"wahook.workflow_retention", "How long finished workflow recovery steps are kept.", 30 * DAY_S,
	 DAY_S, 0},
};

static const struct config_enum_entry log_events_options[] = {{"none", WAHOOK_LOG_NONE, false},
															  {"problems", WAHOOK_LOG_PROBLEMS,
															   false},
															  {"info", WAHOOK_LOG_INFO, false},
															  {"all", WAHOOK_LOG_ALL, false},
															  {NULL, 0, false}};

/* What SHOW prints instead of a secret. */
#define MASK "********"

/*
 * A secret is never printed, whoever asks; a superuser can still read the file it was set in. It is
 * kept beside the setting, whose own value is always MASK, also while there is none: the server itself
 * prints values, for example "parameter ... changed to ..." to its log when a reload changes one.
 *
 * So parallel workers, which get the leader's values, have none: what needs it is parallel restricted.
 */
bool
wahook_hide_secret(char **newval, void **extra, GucSource source)
{
	char *mask;

	if (strcmp(*newval, MASK) == 0)
	{
		GUC_check_errdetail("This is what is shown instead of a secret, not one.");
		return InitializingParallelWorker;
	}
	mask = wahook_guc_strdup(MASK);
	if (mask == NULL)
		return false;
	*extra = *newval;
	*newval = mask;
	return true;
}

const char *
wahook_hidden_secret(const void *extra)
{
	const char *secret = extra;

	return secret != NULL && secret[0] != '\0' ? secret : NULL;
}

const char *
wahook_shown_secret(const char *secret)
{
	return secret != NULL ? MASK : "";
}

static void
assign_app_secret(const char *newval, void *extra)
{
	wahook_app_secret = wahook_hidden_secret(extra);
}

static const char *
show_app_secret(void)
{
	return wahook_shown_secret(wahook_app_secret);
}

static void
assign_verify_token(const char *newval, void *extra)
{
	wahook_verify_token = wahook_hidden_secret(extra);
}

static const char *
show_verify_token(void)
{
	return wahook_shown_secret(wahook_verify_token);
}

void
wahook_define_settings(void)
{
	DefineCustomStringVariable("wahook.app_secret",
							   "The Meta app secret that deliveries are signed with.",
							   "Two, separated by a comma, while it is being rotated.",
							   &shown_app_secret, "", PGC_SUSET, WAHOOK_GUC_SECRET,
							   wahook_hide_secret, assign_app_secret, show_app_secret);
	DefineCustomStringVariable("wahook.verify_token",
							   "The token that the subscription handshake must present.", NULL,
							   &shown_verify_token, "", PGC_SUSET, WAHOOK_GUC_SECRET,
							   wahook_hide_secret, assign_verify_token, show_verify_token);
	DefineCustomBoolVariable("wahook.require_signature",
							 "Refuse deliveries without a signature even where no app secret is set.",
							 "Where an app secret is set they are always refused.",
							 &wahook_require_signature, false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.max_body_size", "The largest delivery that is read.",
							"Meta documents 3 MB.", &wahook_max_body_kb, WAHOOK_DEFAULT_BODY_KB, 1,
							WAHOOK_MAX_BODY_KB, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.max_json_depth",
							"The deepest nesting of an update that is accepted; deeper ones are quarantined.",
							NULL, &wahook_max_json_depth, WAHOOK_DEFAULT_JSON_DEPTH, 16,
							WAHOOK_MAX_JSON_DEPTH, PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("wahook.lock_timeout",
							"The lease of a conversation lock where the caller names none.", NULL,
							&wahook_lock_timeout_s, WAHOOK_DEFAULT_LOCK_TIMEOUT_S,
							WAHOOK_MIN_LEASE_S, WAHOOK_MAX_LEASE_S, PGC_USERSET, GUC_UNIT_S, NULL,
							NULL, NULL);
	DefineCustomIntVariable("wahook.processing_timeout",
							"How long a SQL handler may run for one message.", "0 means no limit.",
							&wahook_processing_timeout_ms, 10000, 0, INT_MAX, PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.stuck_timeout",
							"How long a pending or processing conversation may be idle before it is timed out.",
							NULL, &wahook_stuck_timeout_s, WAHOOK_DEFAULT_STUCK_TIMEOUT_S, 1, DAY_S,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.max_attempts",
							"How often the holder of a message may vanish before it becomes a dead letter.",
							NULL, &wahook_max_attempts, WAHOOK_DEFAULT_MAX_ATTEMPTS, 1, 1000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.claim_max_messages",
							"The most messages of one conversation that a claim hands over.", NULL,
							&wahook_claim_max_messages, WAHOOK_DEFAULT_CLAIM_MESSAGES, 1,
							WAHOOK_MAX_CLAIM_MESSAGES, PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("wahook.dlq_base_delay",
							"The delay before the first retry; it doubles with each further one.",
							NULL, &wahook_dlq_base_delay_s, 60, 1, DAY_S, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.dlq_max_delay",
							"The longest delay before a retry, jitter aside.", NULL,
							&wahook_dlq_max_delay_s, 3600, 1, 30 * DAY_S, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.dlq_max_retries",
							"How often a dead letter is retried before it is given up.", NULL,
							&wahook_dlq_max_retries, 3, 0, 1000, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("wahook.dlq_jitter",
							 "The share of a retry delay that is drawn at random and added to it.",
							 NULL, &wahook_dlq_jitter, 0.0, 0.0, 1.0, PGC_USERSET, 0, NULL, NULL,
							 NULL);
	DefineCustomIntVariable("wahook.dlq_batch_size",
							"How many dead letters one run of the dead letter job takes.", NULL,
							&wahook_dlq_batch_size, 50, 1, 100000, PGC_USERSET, 0, NULL, NULL,
							NULL);

	DefineCustomIntVariable("wahook.session_ttl",
							"How long a user session may be idle before it is deleted.", NULL,
							&wahook_session_ttl_s, DAY_S, 60, MAX_RETENTION_S, PGC_USERSET,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.agent_memory_size",
							"The most that an agent remembers of a conversation.",
							"Older messages are forgotten, however few there are.",
							&agent_memory_kb, 1024, 16, 65536, PGC_USERSET, GUC_UNIT_KB, NULL, NULL,
							NULL);
	DefineCustomIntVariable("wahook.agent_session_timeout",
							"How long an agent session may be idle before it ends.", NULL,
							&agent_session_timeout_s, DAY_S, 1, MAX_RETENTION_S, PGC_USERSET,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("wahook.retention_batch_size",
							"The most rows that one run of the cleanup job deletes from a table.",
							NULL, &wahook_retention_batch_size, 10000, 1, 10000000, PGC_USERSET, 0,
							NULL, NULL, NULL);
	for (size_t i = 0; i < lengthof(retentions); i++)
		DefineCustomIntVariable(retentions[i].name, retentions[i].what, NULL,
								&retentions[i].value_s, retentions[i].default_s,
								retentions[i].min_s, MAX_RETENTION_S, PGC_USERSET, GUC_UNIT_S, NULL,
								NULL, NULL);

	DefineCustomStringVariable("wahook.token_counter",
							   "The function that counts the tokens of a text.",
							   "It takes text and returns integer. Empty for the built-in estimate.",
							   &wahook_token_counter, "", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("wahook.log_events",
							 "Which events are written to the server log, a line of JSON each.",
							 NULL, &wahook_log_events, WAHOOK_LOG_PROBLEMS, log_events_options,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("wahook.log_error_texts",
							 "Whether events about dead letters have the error of the message.",
							 "An error may hold what a user wrote.", &wahook_log_error_texts, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
}
