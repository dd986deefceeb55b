/*
 * The wahook.* settings. Times are in the unit their name or comment says.
 */
#ifndef WAHOOK_SETTINGS_H
#define WAHOOK_SETTINGS_H

#include "postgres.h"

#include "utils/guc.h"

#define WAHOOK_DEFAULT_LOCK_TIMEOUT_S 120
#define WAHOOK_MIN_LEASE_S 1
#define WAHOOK_MAX_LEASE_S (24 * 3600)
#define WAHOOK_DEFAULT_STUCK_TIMEOUT_S 300
#define WAHOOK_DEFAULT_MAX_ATTEMPTS 3
#define WAHOOK_DEFAULT_CLAIM_MESSAGES 100
#define WAHOOK_MAX_CLAIM_MESSAGES 10000
#define WAHOOK_MAX_CLAIM_CONVERSATIONS 1000
#define WAHOOK_DEFAULT_BODY_KB 3072
#define WAHOOK_MAX_BODY_KB (64 * 1024)
#define WAHOOK_DEFAULT_JSON_DEPTH 64
#define WAHOOK_MAX_JSON_DEPTH 1024

typedef enum wahook_LogEvents
{
	WAHOOK_LOG_NONE,
	WAHOOK_LOG_PROBLEMS,
	WAHOOK_LOG_INFO,
	WAHOOK_LOG_ALL
} wahook_LogEvents;

/* NULL where they are not set, and in parallel workers. */
extern const char *wahook_app_secret;
extern const char *wahook_verify_token;
extern bool wahook_require_signature;
extern int wahook_max_body_kb;
extern int wahook_max_json_depth;

extern int wahook_lock_timeout_s;
extern int wahook_processing_timeout_ms;
extern int wahook_stuck_timeout_s;
extern int wahook_max_attempts;
extern int wahook_claim_max_messages;

extern int wahook_dlq_base_delay_s;
extern int wahook_dlq_max_delay_s;
extern int wahook_dlq_max_retries;
extern double wahook_dlq_jitter;
extern int wahook_dlq_batch_size;

extern int wahook_session_ttl_s;
extern int wahook_retention_batch_size;
extern int wahook_log_events;
extern bool wahook_log_error_texts;

/* The name of a function; empty for the built-in estimate. */
extern char *wahook_token_counter;

/* For a setting that is a secret: its flags, and its check hook, which leaves the secret in extra, and a mask. */
#define WAHOOK_GUC_SECRET (GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE)
extern bool wahook_hide_secret(char **newval, void **extra, GucSource source);

/* For its assign hook: the secret in extra; NULL where there is none. And what SHOW prints of it. */
extern const char *wahook_hidden_secret(const void *extra);
extern const char *wahook_shown_secret(const char *secret);

extern void wahook_define_settings(void);

#endif
