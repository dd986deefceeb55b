/*
 * Turns of agents: what agent_*.c share.
 *
 * turn: a conversation of a service with an agent that this process has claimed, from then until its
 * messages are answered, or have failed. All messages of the claim are one turn.
 * chain: the agent that is asked, and those that answer in its place when it does not.
 * task: what is to be done next for a turn in the tables.
 */
#ifndef WAHOOK_AGENT_TURN_H
#define WAHOOK_AGENT_TURN_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "worker/agent_reply.h"
#include "worker/http.h"

/* For how long a turn is leased, and renewed when half of that is over. */
#define WAHOOK_TURN_LEASE_MS (60 * 1000)

/* How many agents are asked at most. */
#define WAHOOK_MAX_AGENT_CHAIN 4

/* How often an agent is asked again within a turn: after 1, 2, 4 seconds. */
#define WAHOOK_TURN_RETRIES 3

/* The longest pause in a turn, if an endpoint asks for one. */
#define WAHOOK_MAX_TURN_PAUSE_S 30

typedef struct wahook_AgentService
{
	char *name;
	bool has_handler; /* of replies */
	int concurrency;
	int64 max_retry_delay_s;
	TimestampTz waits_since; /* when a conversation is or was due first; DT_NOEND: none waits */
	char *chain[WAHOOK_MAX_AGENT_CHAIN];
	int nchain;
} wahook_AgentService;

/* A call of an agent, ready to be sent. */
typedef struct wahook_AgentCall
{
	char *url;
	bool allow_http;
	int timeout_ms;
	char *api_key; /* null: none */
	char *body;
	char *key; /* the same whenever the same is asked */
	int prompt_tokens;
	char *details; /* JSON: what is recorded of the agent as it was asked */
	int circuit_threshold;
	int64 circuit_timeout_us;
} wahook_AgentCall;

typedef enum wahook_TurnTask
{
	WAHOOK_TURN_PREPARE,  /* a call of the agent that is next */
	WAHOOK_TURN_PAUSE,    /* nothing but the report: the agent is asked again after a pause */
	WAHOOK_TURN_ANSWERED, /* record the reply */
	WAHOOK_TURN_FAIL,     /* to the dead letters */
	WAHOOK_TURN_GIVE_BACK /* nobody can be asked at the moment, and nobody has been */
} wahook_TurnTask;

/* What came of a task. */
typedef enum wahook_TurnResult
{
	WAHOOK_TURN_OVER,      /* nothing is left to do */
	WAHOOK_TURN_LOST,      /* the lease was: somebody else does it */
	WAHOOK_TURN_BUSY,      /* another transaction has a row of it: to be tried again */
	WAHOOK_TURN_CALL,      /* send what is in call */
	WAHOOK_TURN_NOT_ASKED, /* there is nothing to answer */
	WAHOOK_TURN_REFUSED,   /* the agent can't be asked; problem says why */
	WAHOOK_TURN_HANDED,    /* the reply is recorded, and the service's handler has the turn */
	WAHOOK_TURN_PAUSED
} wahook_TurnResult;

/* What a call that ended means for the agent's circuit and budget. */
typedef struct wahook_CallReport
{
	bool is_due;
	bool works;
	int asked; /* the place in the chain of the agent that was asked */
} wahook_CallReport;

typedef struct wahook_Turn
{
	dlist_node node;
	MemoryContext context;      /* which holds all of it */
	MemoryContext call_context; /* and this, within it, the call */
	wahook_AgentService service;
	pg_uuid_t id; /* of the conversation */
	pg_uuid_t lock_id;
	TimestampTz leased_until;
	TimestampTz started_at;
	char *user_id;
	char *messages;         /* JSON, as they were claimed */
	ArrayType *message_ids; /* text[]; null: they are gone */
	char *correlation_id;   /* of the first message */

	int asked; /* the place in the chain of the agent that is asked */
	int tries; /* calls of it */
	int calls; /* and of all */
	wahook_TurnTask task;
	wahook_TurnResult result; /* of the task */
	wahook_CallReport report;
	TimestampTz ask_at; /* after a pause */
	wahook_AgentCall call;
	wahook_HttpAnswer *answer; /* to the last call; null: none */
	wahook_AgentReply reply;

	char *problem;        /* with WAHOOK_TURN_REFUSED */
	TimestampTz retry_at; /* and when that will have passed; DT_NOBEGIN: not known */
	char *errors;         /* what went wrong with each agent; null: nothing yet */
	int64 delay_us;       /* until the retry of the messages; negative: the usual schedule */

	bool only_first;         /* is answered, and the other messages wait again */
	bool estimated;          /* what the reply cost: the endpoint did not tell */
	bool may_pass;           /* something of what went wrong */
	bool refused_by_circuit; /* the last agent was */
	bool met_trouble;        /* more than open circuits: its messages have to fail */
	bool is_lost;            /* its lease is */
	bool is_over;            /* the handler has dealt with its reply */
} wahook_Turn;

/* --- agent_claim.c: units, run by wahook_in_transaction() --- */

/* Reads the enabled services with an agent into an array in its own context. */
typedef struct wahook_ReadAgentServices
{
	MemoryContext context;
	wahook_AgentService *services;
	int n;
} wahook_ReadAgentServices;

extern void wahook_read_agent_services(void *arg);

/* Claims up to limit conversations of one service; at the end of claimed. */
typedef struct wahook_ClaimTurns
{
	const wahook_AgentService *service;
	int limit;
	MemoryContext context; /* the parent of the turns' contexts */
	dlist_head claimed;
	int n;
	TimestampTz retry_at; /* when a circuit lets something through; DT_NOBEGIN: now */
} wahook_ClaimTurns;

extern void wahook_claim_turns(void *arg);

/* Frees a turn that is in no list. */
extern void wahook_free_turn(wahook_Turn *turn);

/* --- agent_call.c --- */

/* Sends the call. False: there is not enough memory. */
extern bool wahook_send_call(wahook_Turn *turn, wahook_HttpDone done);

/* What the answer to its call, or that there is none, means: sets its task, and what is to be reported. */
extern void wahook_judge_call(wahook_Turn *turn);

/* The agent can't be asked: the next of the chain is, or the turn fails. */
extern void wahook_pass_on(wahook_Turn *turn);

/* --- agent_prepare.c --- */

/* WAHOOK_TURN_CALL, _REFUSED, _NOT_ASKED; _HANDED where the same was answered before. In a transaction. */
extern wahook_TurnResult wahook_prepare_call(wahook_Turn *turn);

/* The result WAHOOK_TURN_REFUSED, and why. */
extern wahook_TurnResult wahook_refuse_call(wahook_Turn *turn, const char *problem,
											TimestampTz retry_at);

/* --- agent_record.c: a unit --- */

/* Does the tasks of turns. Each has its result then, and those that are done are moved to done. */
typedef struct wahook_DoTurnTasks
{
	dlist_head *to_do;
	dlist_head *done;
} wahook_DoTurnTasks;

extern void wahook_do_turn_tasks(void *arg);

/* --- agent_lease.c: units, of which the argument is a list of turns --- */

/* Renews the leases of those that need it; a lost one is marked. */
extern void wahook_renew_turns(void *arg);
extern bool wahook_turn_needs_renewal(const wahook_Turn *turn, TimestampTz now);

extern void wahook_give_turns_back(void *arg);

/* Marks those of which the recorded reply has been dealt with. */
extern void wahook_look_at_replies(void *arg);

#endif
