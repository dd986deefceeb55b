/*
 * What the counters are called: names and units as Prometheus wants them.
 */
#include "core/counter_names.h"

#include "common/hashfn.h"

const wahook_Metric wahook_metrics[WAHOOK_NMETRICS] = {
	[WAHOOK_METRIC_DELIVERIES] = {"wahook_deliveries_total", "counter", "deliveries",
								  "Webhook deliveries, by whether they were accepted"},
	[WAHOOK_METRIC_EVENTS] = {"wahook_events_total", "counter", "events",
							  "Updates in deliveries, by kind and by what became of them"},
	[WAHOOK_METRIC_LOCKS] =
		{"wahook_locks_total", "counter", "locks",
		 "Conversation locks: acquired while free, taken over from a holder whose "
		 "lease had run out, refused, or found lost by their holder"},
	[WAHOOK_METRIC_CLAIMS] = {"wahook_claims_total", "counter", "conversations",
							  "Conversations handed out with their waiting messages"},
	[WAHOOK_METRIC_COMPLETED] = {"wahook_messages_completed_total", "counter", "messages",
								 "Messages processed successfully"},
	[WAHOOK_METRIC_FAILED] = {"wahook_messages_failed_total", "counter", "attempts",
							  "Attempts at messages that failed, or whose holder vanished"},
	[WAHOOK_METRIC_DEAD_LETTERS] = {"wahook_dead_letters_total", "counter", "dead letters",
									"Dead letters that were added, resolved, given up as failed, or "
									"discarded by hand"},
	[WAHOOK_METRIC_RETRIES] = {"wahook_retries_total", "counter", "retries",
							   "Retries of dead letters that ended: resolved, rescheduled, or failed "
							   "for good"},
	[WAHOOK_METRIC_HTTP_ATTEMPTS] = {"wahook_http_attempts_total", "counter", "requests",
									 "Requests to the endpoints of services, by service and by how "
									 "they ended"},
	[WAHOOK_METRIC_AGENT_CALLS] = {"wahook_agent_calls_total", "counter", "calls",
								   "Calls of language models, by agent and by how they ended"},
	[WAHOOK_METRIC_AGENT_TOKENS] = {"wahook_agent_tokens_total", "counter", "tokens",
									"Tokens that language models read and wrote, by agent"},
	[WAHOOK_METRIC_JOB_RUNS] = {"wahook_job_runs_total", "counter", "runs",
								"Runs of the jobs that ended"},
	[WAHOOK_METRIC_INTAKE] = {"wahook_intake_duration_seconds", "histogram", "seconds",
							  "Time that a call took to receive a delivery"},
	[WAHOOK_METRIC_WAIT] = {"wahook_inbox_wait_seconds", "histogram", "seconds",
							"Time from when a message was due in the inbox to its claim"},
	[WAHOOK_METRIC_PROCESSING] = {"wahook_processing_duration_seconds", "histogram", "seconds",
								  "Time from the claim of a message to its completion, or as its "
								  "caller said"},
	[WAHOOK_METRIC_END_TO_END] = {"wahook_end_to_end_duration_seconds", "histogram", "seconds",
								  "Time from the receipt of a message to its completion"},
	[WAHOOK_METRIC_HTTP_TIME] = {"wahook_http_request_duration_seconds", "histogram", "seconds",
								 "Time that requests to the endpoints of services took"},
};

const char *const wahook_metric_labels[WAHOOK_NMETRICS][WAHOOK_MAX_METRIC_LABELS] = {
	[WAHOOK_METRIC_DELIVERIES] = {"outcome"},
	[WAHOOK_METRIC_EVENTS] = {"kind", "outcome"},
	[WAHOOK_METRIC_LOCKS] = {"result"},
	[WAHOOK_METRIC_DEAD_LETTERS] = {"state"},
	[WAHOOK_METRIC_RETRIES] = {"result"},
	[WAHOOK_METRIC_HTTP_ATTEMPTS] = {"service", "status"},
	[WAHOOK_METRIC_AGENT_CALLS] = {"agent", "result"},
	[WAHOOK_METRIC_AGENT_TOKENS] = {"agent", "direction"},
	[WAHOOK_METRIC_JOB_RUNS] = {"job", "result"},
};

const wahook_CounterName wahook_counter_names[WAHOOK_NCOUNTERS] = {
	[WAHOOK_DELIVERIES_ACCEPTED] = {WAHOOK_METRIC_DELIVERIES, {"accepted"}},
	[WAHOOK_DELIVERIES_REFUSED] = {WAHOOK_METRIC_DELIVERIES, {"refused"}},
	[WAHOOK_MESSAGES_ACCEPTED] = {WAHOOK_METRIC_EVENTS, {"message", "accepted"}},
	[WAHOOK_MESSAGES_DUPLICATE] = {WAHOOK_METRIC_EVENTS, {"message", "duplicate"}},
	[WAHOOK_MESSAGES_RATE_LIMITED] = {WAHOOK_METRIC_EVENTS, {"message", "rate_limited"}},
	[WAHOOK_STATUSES_RECORDED] = {WAHOOK_METRIC_EVENTS, {"status", "recorded"}},
	[WAHOOK_STATUSES_DUPLICATE] = {WAHOOK_METRIC_EVENTS, {"status", "duplicate"}},
	[WAHOOK_NOTICES_RECORDED] = {WAHOOK_METRIC_EVENTS, {"notice", "recorded"}},
	[WAHOOK_NOTICES_DUPLICATE] = {WAHOOK_METRIC_EVENTS, {"notice", "duplicate"}},
	[WAHOOK_UNREADABLE_QUARANTINED] = {WAHOOK_METRIC_EVENTS, {"unreadable", "quarantined"}},
	[WAHOOK_LOCKS_ACQUIRED] = {WAHOOK_METRIC_LOCKS, {"acquired"}},
	[WAHOOK_LOCKS_REFUSED] = {WAHOOK_METRIC_LOCKS, {"refused"}},
	[WAHOOK_LOCKS_TAKEN_OVER] = {WAHOOK_METRIC_LOCKS, {"taken_over"}},
	[WAHOOK_LOCKS_LOST] = {WAHOOK_METRIC_LOCKS, {"lost"}},
	[WAHOOK_CLAIMS] = {WAHOOK_METRIC_CLAIMS, {NULL}},
	[WAHOOK_MESSAGES_COMPLETED] = {WAHOOK_METRIC_COMPLETED, {NULL}},
	[WAHOOK_MESSAGES_FAILED] = {WAHOOK_METRIC_FAILED, {NULL}},
	[WAHOOK_DEAD_LETTERS_ADDED] = {WAHOOK_METRIC_DEAD_LETTERS, {"added"}},
	[WAHOOK_DEAD_LETTERS_RESOLVED] = {WAHOOK_METRIC_DEAD_LETTERS, {"resolved"}},
	[WAHOOK_DEAD_LETTERS_FAILED] = {WAHOOK_METRIC_DEAD_LETTERS, {"failed"}},
	[WAHOOK_DEAD_LETTERS_DISCARDED] = {WAHOOK_METRIC_DEAD_LETTERS, {"discarded"}},
	[WAHOOK_RETRIES_RESOLVED] = {WAHOOK_METRIC_RETRIES, {"resolved"}},
	[WAHOOK_RETRIES_RESCHEDULED] = {WAHOOK_METRIC_RETRIES, {"rescheduled"}},
	[WAHOOK_RETRIES_FAILED] = {WAHOOK_METRIC_RETRIES, {"failed"}},
};

static const char *const http_results[] = {
	[WAHOOK_HTTP_2XX] = "2xx",         [WAHOOK_HTTP_3XX] = "3xx",
	[WAHOOK_HTTP_4XX] = "4xx",         [WAHOOK_HTTP_5XX] = "5xx",
	[WAHOOK_HTTP_TIMEOUT] = "timeout", [WAHOOK_HTTP_CONNECTION] = "connection",
	[WAHOOK_HTTP_REFUSED] = "refused", [WAHOOK_NHTTPRESULTS] = NULL,
};

static const char *const agent_results[] = {
	[WAHOOK_AGENT_OK] = "ok",
	[WAHOOK_AGENT_ERROR] = "error",
	[WAHOOK_AGENT_TIMEOUT] = "timeout",
	[WAHOOK_AGENT_RATE_LIMITED] = "rate_limited",
	[WAHOOK_AGENT_FALLBACK] = "fallback",
	[WAHOOK_NAGENTRESULTS] = NULL,
};

static const char *const token_directions[] = {
	[WAHOOK_TOKENS_INPUT] = "input",
	[WAHOOK_TOKENS_OUTPUT] = "output",
	[WAHOOK_NTOKENDIRECTIONS] = NULL,
};

static const char *const job_results[] = {
	[WAHOOK_JOB_OK] = "ok",
	[WAHOOK_JOB_FAILED] = "failed",
	[WAHOOK_NJOBRESULTS] = NULL,
};

const wahook_FamilyName wahook_family_names[WAHOOK_NFAMILIES] = {
	[WAHOOK_HTTP_ATTEMPTS] = {WAHOOK_METRIC_HTTP_ATTEMPTS, http_results},
	[WAHOOK_AGENT_CALLS] = {WAHOOK_METRIC_AGENT_CALLS, agent_results},
	[WAHOOK_AGENT_TOKENS] = {WAHOOK_METRIC_AGENT_TOKENS, token_directions},
	[WAHOOK_JOB_RUNS] = {WAHOOK_METRIC_JOB_RUNS, job_results},
};

const char *const wahook_reset_reasons[WAHOOK_NRESETREASONS] = {
	[WAHOOK_RESET_CREATED] = "created",     [WAHOOK_RESET_STARTED] = "started",
	[WAHOOK_RESET_CRASHED] = "crashed",     [WAHOOK_RESET_UNREADABLE] = "unreadable",
	[WAHOOK_RESET_REQUESTED] = "requested",
};

static uint32
hash_text(uint32 hash, const char *value)
{
	return value == NULL
			   ? hash_combine(hash, 1)
			   : hash_combine(hash, hash_bytes((const unsigned char *) value, (int) strlen(value)));
}

uint32
wahook_hash_counter_names(void)
{
	uint32 hash =
		hash_bytes((const unsigned char *) wahook_bucket_bounds, sizeof(wahook_bucket_bounds));

	for (int i = 0; i < WAHOOK_NMETRICS; i++)
		hash = hash_text(hash, wahook_metrics[i].name);
	for (int i = 0; i < WAHOOK_NCOUNTERS; i++)
	{
		hash = hash_text(hash, wahook_metrics[wahook_counter_names[i].metric].name);
		for (int j = 0; j < WAHOOK_MAX_METRIC_LABELS; j++)
			hash = hash_text(hash, wahook_counter_names[i].values[j]);
	}
	for (int i = 0; i < WAHOOK_NFAMILIES; i++)
		for (const char *const *result = wahook_family_names[i].results; *result; result++)
			hash = hash_text(hash, *result);
	return hash;
}
