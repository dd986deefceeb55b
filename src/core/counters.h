/*
 * Counters and histograms: what webhook_metrics() and Prometheus are told.
 *
 * They are in shared memory, a block a database, and only where the library is preloaded; elsewhere
 * these calls cost a comparison and do nothing. What a transaction counts is added when it commits:
 * what is rolled back, a subtransaction alone included, has not happened. Outside of a transaction,
 * and with the calls that end in _now, it is added at once.
 *
 * family: counters under one name, told apart by a label and a result.
 */
#ifndef WAHOOK_COUNTERS_H
#define WAHOOK_COUNTERS_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Told by webhook_metrics() under the names in core/counter_names.c. */
typedef enum wahook_Counter
{
	WAHOOK_DELIVERIES_ACCEPTED,
	WAHOOK_DELIVERIES_REFUSED, /* with an error: counted by the call ending in _now */

	/* Events: an update of a delivery, by its kind and what became of it. */
	WAHOOK_MESSAGES_ACCEPTED,
	WAHOOK_MESSAGES_DUPLICATE,
	WAHOOK_MESSAGES_RATE_LIMITED,
	WAHOOK_STATUSES_RECORDED,
	WAHOOK_STATUSES_DUPLICATE,
	WAHOOK_NOTICES_RECORDED,
	WAHOOK_NOTICES_DUPLICATE,
	WAHOOK_UNREADABLE_QUARANTINED,

	WAHOOK_LOCKS_ACQUIRED,
	WAHOOK_LOCKS_REFUSED,
	WAHOOK_LOCKS_TAKEN_OVER, /* acquired from a holder whose lease had run out */
	WAHOOK_LOCKS_LOST,       /* a holder was told that it is none any more */

	WAHOOK_CLAIMS, /* conversations handed out with messages */
	WAHOOK_MESSAGES_COMPLETED,
	WAHOOK_MESSAGES_FAILED, /* attempts that failed or were lost */

	WAHOOK_DEAD_LETTERS_ADDED,
	WAHOOK_DEAD_LETTERS_RESOLVED,
	WAHOOK_DEAD_LETTERS_FAILED, /* no more retries */
	WAHOOK_DEAD_LETTERS_DISCARDED,

	WAHOOK_RETRIES_RESOLVED,
	WAHOOK_RETRIES_RESCHEDULED,
	WAHOOK_RETRIES_FAILED,

	WAHOOK_NCOUNTERS
} wahook_Counter;

typedef enum wahook_CounterFamily
{
	WAHOOK_HTTP_ATTEMPTS, /* label: the service; result: wahook_HttpResult */
	WAHOOK_AGENT_CALLS,   /* label: the agent's type; result: wahook_AgentResult */
	WAHOOK_AGENT_TOKENS,  /* label: the agent's type; result: wahook_TokenDirection */
	WAHOOK_JOB_RUNS,      /* label: the job; result: wahook_JobResult */

	WAHOOK_NFAMILIES
} wahook_CounterFamily;

typedef enum wahook_HttpResult
{
	WAHOOK_HTTP_2XX,
	WAHOOK_HTTP_3XX,
	WAHOOK_HTTP_4XX,
	WAHOOK_HTTP_5XX,
	WAHOOK_HTTP_TIMEOUT,
	WAHOOK_HTTP_CONNECTION, /* no answer: unreachable, TLS, broken off */
	WAHOOK_HTTP_REFUSED,    /* not sent: the address or the URL is not allowed */
	WAHOOK_NHTTPRESULTS
} wahook_HttpResult;

typedef enum wahook_AgentResult
{
	WAHOOK_AGENT_OK,
	WAHOOK_AGENT_ERROR,
	WAHOOK_AGENT_TIMEOUT,
	WAHOOK_AGENT_RATE_LIMITED,
	WAHOOK_AGENT_FALLBACK,
	WAHOOK_NAGENTRESULTS
} wahook_AgentResult;

typedef enum wahook_TokenDirection
{
	WAHOOK_TOKENS_INPUT,
	WAHOOK_TOKENS_OUTPUT,
	WAHOOK_NTOKENDIRECTIONS
} wahook_TokenDirection;

typedef enum wahook_JobResult
{
	WAHOOK_JOB_OK,
	WAHOOK_JOB_FAILED,
	WAHOOK_NJOBRESULTS
} wahook_JobResult;

typedef enum wahook_Histogram
{
	WAHOOK_INTAKE_TIME,     /* a call of receive_webhook */
	WAHOOK_INBOX_WAIT,      /* a message: from when it was due to its claim */
	WAHOOK_PROCESSING_TIME, /* a message: from its claim to its completion, or as its caller says */
	WAHOOK_END_TO_END_TIME, /* a message: from its receipt to its completion */
	WAHOOK_HTTP_TIME,       /* a request that was sent */
	WAHOOK_NHISTOGRAMS
} wahook_Histogram;

/* Never an error, but that the session's memory runs out. */
extern void wahook_count(wahook_Counter counter, uint64 n);
extern void wahook_observe(wahook_Histogram histogram, int64 microseconds);

/*
 * A label is a name that somebody configured, never a name of a user. Each set of labels (services,
 * agents, jobs) has a bound; what comes after that is counted under the label "other".
 */
extern void wahook_count_labelled(wahook_CounterFamily family, const char *label, int result,
								  uint64 n);

/* Whatever becomes of the transaction: before an error, or what happened outside of the database. */
extern void wahook_count_now(wahook_Counter counter, uint64 n);
extern void wahook_observe_now(wahook_Histogram histogram, int64 microseconds);
extern void wahook_count_labelled_now(wahook_CounterFamily family, const char *label, int result,
									  uint64 n);

/* Whether anything is counted: where a caller would have to work to know a number. */
extern bool wahook_counts(void);

/* Called while the server preloads the library. */
extern void wahook_reserve_counters(void);

/*
 * For the hooks: this transaction creates or drops the extension, or drops a database. When it
 * commits, the counters of what is gone are freed, and those of a new installation begin at zero.
 */
extern void wahook_counters_extension_changes(void);
extern void wahook_counters_database_goes(Oid database);

#endif
