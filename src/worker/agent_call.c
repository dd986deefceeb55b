/*
 * Calls of agents: how one is sent, and what follows from how it ended. No tables here.
 *
 * An agent is asked up to four times, with pauses of 1, 2 and 4 seconds or as long as its endpoint
 * asks for. When it does not answer then, or can't be asked at all, the next agent of the chain is,
 * and after the last one the turn fails.
 */
#include "postgres.h"

#include <time.h>

#include "utils/timestamp.h"

#include "core/counters.h"
#include "worker/agent_turn.h"
#include "worker/judge.h"
#include "worker/requests.h"
#include "worker/retry_after.h"
#include "worker/safe_text.h"

#define MAX_HEADERS 8

#define PROBLEM_SIZE 400

bool
wahook_send_call(wahook_Turn *turn, wahook_HttpDone done)
{
	const wahook_AgentCall *call = &turn->call;
	const char *headers[MAX_HEADERS];
	int n = 0;
	wahook_HttpRequest request = {.url = call->url,
								  .allow_http = call->allow_http,
								  .headers = headers,
								  .body = call->body,
								  .body_len = strlen(call->body),
								  .timeout_ms = call->timeout_ms,
								  .done = done,
								  .arg = turn};

	headers[n++] = "Content-Type: application/json";
	headers[n++] = "Accept: application/json";
	headers[n++] = psprintf("Idempotency-Key: %s", call->key);
	if (turn->correlation_id != NULL)
		headers[n++] = psprintf("X-Correlation-ID: %s", turn->correlation_id);
	if (call->api_key != NULL)
		headers[n++] = psprintf("Authorization: Bearer %s", call->api_key);
	headers[n] = NULL;
	Assert(n < MAX_HEADERS);
	return wahook_start_request(&request);
}

static void
count_result(const wahook_Turn *turn, wahook_AgentResult result)
{
	wahook_count_labelled_now(WAHOOK_AGENT_CALLS, turn->service.chain[turn->asked], result, 1);
}

static void
count_call(const wahook_Turn *turn)
{
	const wahook_HttpAnswer *answer = turn->answer;

	if (answer != NULL && answer->duration_us > 0)
		wahook_observe_now(WAHOOK_HTTP_TIME, answer->duration_us);
	count_result(turn, answer != NULL && answer->outcome == WAHOOK_HTTP_TIMED_OUT
						   ? WAHOOK_AGENT_TIMEOUT
					   : answer != NULL && answer->status == 429 ? WAHOOK_AGENT_RATE_LIMITED
					   : turn->reply.content != NULL             ? WAHOOK_AGENT_OK
																 : WAHOOK_AGENT_ERROR);
}

/* --- what went wrong --- */

static void
note_problem(wahook_Turn *turn, const char *problem)
{
	MemoryContext old = MemoryContextSwitchTo(turn->context);
	const char *agent = turn->service.chain[turn->asked];
	char *calls = turn->tries > 1 ? psprintf(" (%d calls)", turn->tries) : "";

	turn->errors = psprintf("%s%sagent \"%s\": %s%s", turn->errors ? turn->errors : "",
							turn->errors ? "; " : "", agent, problem, calls);
	MemoryContextSwitchTo(old);
}

/* The earliest time that any of them names. */
static void
note_delay(wahook_Turn *turn, int64 delay_us)
{
	turn->delay_us = turn->delay_us < 0 ? delay_us : Min(turn->delay_us, delay_us);
}

/* The next agent, if there is one. Where all that is wrong is open circuits, nothing has failed yet. */
static void
ask_next(wahook_Turn *turn)
{
	turn->tries = 0;
	if (turn->asked + 1 == turn->service.nchain)
	{
		turn->task = turn->met_trouble ? WAHOOK_TURN_FAIL : WAHOOK_TURN_GIVE_BACK;
		return;
	}
	count_result(turn, WAHOOK_AGENT_FALLBACK);
	turn->asked++;
	turn->task = WAHOOK_TURN_PREPARE;
}

void
wahook_pass_on(wahook_Turn *turn)
{
	note_problem(turn, turn->problem);
	turn->may_pass = true;
	turn->met_trouble |= !turn->refused_by_circuit;
	if (turn->retry_at != DT_NOBEGIN)
		note_delay(turn, Max(turn->retry_at - GetCurrentTimestamp(), 0));
	ask_next(turn);
}

/* --- what an answer means --- */

static int64
retry_after_s(const wahook_Turn *turn)
{
	if (turn->answer == NULL || turn->answer->outcome != WAHOOK_HTTP_ANSWERED)
		return -1;
	return wahook_retry_after_s(turn->answer->retry_after, (int64) time(NULL),
								Max(turn->service.max_retry_delay_s, WAHOOK_MAX_TURN_PAUSE_S + 1));
}

/* Again after a pause, if it is not too long for a turn; else the next agent. */
static void
ask_again(wahook_Turn *turn, const char *problem, bool may_pass)
{
	int64 pause_s = INT64CONST(1) << (turn->tries - 1);
	int64 wanted_s = may_pass ? retry_after_s(turn) : -1;

	turn->may_pass |= may_pass;
	if (may_pass && turn->tries <= WAHOOK_TURN_RETRIES && wanted_s <= WAHOOK_MAX_TURN_PAUSE_S)
	{
		turn->ask_at = GetCurrentTimestamp() + Max(pause_s, wanted_s) * USECS_PER_SEC;
		turn->task = WAHOOK_TURN_PAUSE;
		return;
	}
	if (wanted_s > 0)
		note_delay(turn, Min(wanted_s, turn->service.max_retry_delay_s) * USECS_PER_SEC);
	note_problem(turn, problem);
	ask_next(turn);
}

static void
judge_reply(wahook_Turn *turn)
{
	if (turn->reply.content != NULL)
		turn->task = WAHOOK_TURN_ANSWERED;
	else
	{
		turn->report.works = false;
		ask_again(turn, psprintf("unusable answer: %s", turn->reply.problem),
				  !turn->reply.is_final);
	}
}

void
wahook_judge_call(wahook_Turn *turn)
{
	const wahook_HttpAnswer *answer = turn->answer;
	wahook_Judgement judgement = wahook_judge(answer);
	char problem[PROBLEM_SIZE];

	turn->tries++;
	turn->calls++;
	turn->met_trouble = true;
	turn->report = (wahook_CallReport){.is_due = true,
									   .works = judgement.endpoint_works,
									   .asked = turn->asked};
	wahook_free_agent_reply(&turn->reply);
	if (judgement.success)
		turn->reply = wahook_read_agent_reply(answer->body, answer->body_len, answer->cut);
	count_call(turn);
	if (judgement.success)
		judge_reply(turn);
	else
	{
		wahook_describe_failure(answer, problem, sizeof(problem));
		ask_again(turn, wahook_safe_text(problem, strlen(problem), sizeof(problem)),
				  judgement.retryable);
	}
}
