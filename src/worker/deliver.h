/*
 * Deliveries over HTTP: what deliver_*.c share.
 *
 * endpoint: what is known of a service with a URL.
 * delivery: a conversation that this process has claimed, or a dead letter without a conversation
 * that it has taken, from then until its outcome is recorded.
 * part: what one request of a delivery carries.
 */
#ifndef WAHOOK_DELIVER_H
#define WAHOOK_DELIVER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "worker/http.h"

/* How much longer than its request may take a delivery is leased: to record what came of it. */
#define WAHOOK_LEASE_MARGIN_MS 5000

/* The longest request where wahook.processing_timeout sets no limit, as of webhook_services.timeout. */
#define WAHOOK_MAX_DELIVERY_MS (3600 * 1000)

typedef struct wahook_Endpoint
{
	char *service;
	char *url;
	bool allow_http;
	int timeout_ms;
	int concurrency;
	bool strict_order;
	int64 max_retry_delay_s;
	int circuit_threshold;
	int64 circuit_timeout_us;
	char *bearer_token;            /* null: none */
	char *signing_secret;          /* null: none */
	char *previous_signing_secret; /* null: none */

	TimestampTz waits_since;   /* when a conversation is or was due first; DT_NOEND: none waits */
	TimestampTz entry_due_at;  /* the same of its dead letters without a conversation */
	TimestampTz next_entry_at; /* and when the next of these will be due */
} wahook_Endpoint;

typedef struct wahook_Part
{
	ArrayType *message_ids; /* text[] of whatsapp_message_id; null: of a dead letter */
	char *key;              /* the same whenever the same messages are sent */
	char *correlation_id;   /* of the first message */
	bool is_retry;
	char *body; /* JSON */
} wahook_Part;

typedef struct wahook_Delivery
{
	dlist_node node;
	MemoryContext context; /* which holds all of it */
	wahook_Endpoint endpoint;
	bool has_conversation;
	pg_uuid_t id; /* of the conversation, or of the dead letter */
	pg_uuid_t lock_id;
	int64 lock_token;
	TimestampTz leased_until;
	wahook_Part *parts;
	int nparts; /* 0: the messages are gone, there is nothing to send */
	int part;   /* the one that is under way */
	TimestampTz started_at;
	wahook_HttpAnswer *answer; /* null: none yet, or there was not enough memory to ask */
} wahook_Delivery;

/* --- deliver_claim.c: units, run by wahook_in_transaction() --- */

/* Reads the endpoints of enabled services into an array in its own context. */
typedef struct wahook_ReadEndpoints
{
	MemoryContext context;
	wahook_Endpoint *endpoints;
	int n;
} wahook_ReadEndpoints;

extern void wahook_read_endpoints(void *arg);

/* Claims up to limit conversations, or takes dead letters, of one service; at the end of claimed. */
typedef struct wahook_ClaimDeliveries
{
	const wahook_Endpoint *endpoint;
	int limit;
	MemoryContext context; /* the parent of the deliveries' contexts */
	dlist_head claimed;
	int n;
	TimestampTz retry_at; /* when its circuit lets something through; DT_NOBEGIN: now */
} wahook_ClaimDeliveries;

extern void wahook_claim_deliveries(void *arg);

/* Frees a delivery that is in no list. */
extern void wahook_free_delivery(wahook_Delivery *delivery);

/* --- deliver_record.c --- */

typedef struct wahook_RecordDeliveries
{
	dlist_head *ended;    /* deliveries; taken out one by one, into one of: */
	dlist_head *recorded; /* to be freed */
	dlist_head *goes_on;  /* its next part is to be sent, under a lease that has been renewed */
	dlist_head *busy;     /* another transaction has a row of it: to be tried again */
	wahook_Delivery *delivery; /* that is being recorded */
	dlist_head *to;            /* and where it goes */
	bool stopping;             /* nothing goes on */
} wahook_RecordDeliveries;

extern void wahook_record_deliveries(void *arg);

#endif
