/*
 * The source of the alerts: looks for changes every wahook.alert_interval, and tells wahook.alert_url.
 *
 * A change is written to webhook_alerts, logged and notified in one transaction, in SQL. Telling the
 * URL comes after its commit: what has not been taken is in the table, and is sent again after growing
 * pauses, by the next worker too. One request at a time, so that news comes in its order.
 *
 * This is the one thing that the worker does by the clock and not because something happened: that
 * nothing happens any more may be what is wrong. A look that finds no change writes nothing.
 */
#include "worker/worker.h"

#include <time.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/plan.h"
#include "core/uuid.h"
#include "worker/alert_settings.h"
#include "worker/http.h"
#include "worker/requests.h"
#include "worker/judge.h"
#include "worker/retry_after.h"
#include "worker/standard_webhooks.h"

#define REQUEST_TIMEOUT_MS 10000
#define MAX_ANSWER 1024
#define MAX_PAUSE_S 300
#define MAX_SECRETS 4
#define MAX_HEADERS 8
#define PROBLEM_SIZE 320

/* After a note that a circuit or a service changed there may be news, but not for each of many notes. */
#define MIN_INTERVAL_US USECS_PER_SEC

/* How long an answer is waited for when the worker is to end. */
#define STOP_WAIT_MS 2000

/* A piece of news on its way to the URL. */
typedef struct News
{
	bool exists;
	pg_uuid_t id;
	char state[16];
	char *body; /* in news_context */
} News;

static MemoryContext news_context;
static News news;
static bool under_way;
static bool answered;
static wahook_HttpAnswer *answer; /* null: there was not enough memory to ask */
static bool has_news;
static bool is_first = true;
static TimestampTz evaluated_at = DT_NOBEGIN;
static TimestampTz evaluate_at = DT_NOBEGIN;
static wahook_Pause tell_pause;

static wahook_Plan evaluate_plan = {"SELECT @extschema@.webhook_evaluate_alerts($1, $2, $3)",
									3,
									{BOOLOID, BOOLOID, TIMESTAMPTZOID}};

static wahook_Plan next_plan =
	{"SELECT n.id, n.state, n.body FROM @extschema@.webhook_next_alert_to_tell() n", 0, {0}};

static wahook_Plan told_plan = {"SELECT @extschema@.webhook_note_told($1, $2, $3)",
								3,
								{UUIDOID, TEXTOID, TEXTOID}};

/* --- units --- */

static void
evaluate(void *arg)
{
	TimestampTz alive_until = wahook_former_worker_alive_until();
	Datum values[] = {BoolGetDatum(wahook_alert_url != NULL), BoolGetDatum(is_first),
					  TimestampTzGetDatum(alive_until)};
	const char *nulls = alive_until == DT_NOBEGIN ? "  n" : NULL;
	bool isnull;

	wahook_execute(&evaluate_plan, values, nulls);
	has_news = DatumGetBool(wahook_result(0, 1, &isnull));
}

static void
read_next(void *arg)
{
	bool isnull;
	Datum id;

	wahook_execute(&next_plan, NULL, NULL);
	id = wahook_result(0, 1, &isnull);
	news = (News){.exists = !isnull};
	if (isnull)
		return;
	news.id = *DatumGetUUIDP(id);
	strlcpy(news.state, wahook_result_text(0, 2), sizeof(news.state));
	news.body = MemoryContextStrdup(news_context, wahook_result_text(0, 3));
}

/* arg: what went wrong, or null. */
static void
note_told(void *arg)
{
	const char *problem = arg;
	Datum values[] = {UUIDPGetDatum(&news.id), CStringGetTextDatum(news.state),
					  problem ? CStringGetTextDatum(problem) : (Datum) 0};

	wahook_execute(&told_plan, values, problem ? NULL : "  n");
}

/* --- telling --- */

static void
on_answer(void *arg, wahook_HttpAnswer *came)
{
	answer = came;
	answered = true;
	wahook_source_is_due(&wahook_alerts_source);
}

/* False where there are secrets, but none that is one: unsigned is not what was asked for. */
static bool
add_signature(const char **headers, int *n)
{
	const char *secrets[MAX_SECRETS] = {NULL};
	char *id = psprintf("alert_%s_%s", wahook_uuid_text(&news.id), news.state);
	char *rest = wahook_alert_secret ? pstrdup(wahook_alert_secret) : NULL;
	char *secret;
	int nsecrets = 0;
	int added;

	while (nsecrets < MAX_SECRETS && (secret = strsep(&rest, ",")) != NULL)
		secrets[nsecrets++] = secret + strspn(secret, " ");
	added = wahook_signature_headers(&headers[*n], secrets, nsecrets, id, news.body);
	if (added == 0 && nsecrets == 0)
		headers[(*n)++] = psprintf("webhook-id: %s", id);
	*n += added;
	return added > 0 || nsecrets == 0;
}

static void
send_news(void)
{
	const char *headers[MAX_HEADERS] = {"Content-Type: application/json"};
	int n = 1;
	wahook_HttpRequest request = {.url = wahook_alert_url,
								  .allow_http = true,
								  .headers = headers,
								  .body = news.body,
								  .body_len = strlen(news.body),
								  .timeout_ms = REQUEST_TIMEOUT_MS,
								  .max_body = MAX_ANSWER,
								  .done = on_answer};

	answer = NULL;
	answered = false;
	if (!add_signature(headers, &n))
	{
		wahook_note_result(&tell_pause, false, MAX_PAUSE_S);
		wahook_warn_once("alert", "WH006", "wahook.alert_secret is no Standard Webhooks secret");
		news.exists = false;
		return;
	}
	headers[n] = NULL;
	under_way = true;
	answered = !wahook_start_request(&request);
}

static void
tell_next(void)
{
	MemoryContextReset(news_context);
	news.exists = false;
	if (!wahook_in_transaction(read_next, NULL))
	{
		wahook_note_result(&tell_pause, false, MAX_PAUSE_S);
		return;
	}
	has_news = news.exists;
	if (news.exists)
		send_news();
}

/* What was taken but could not be recorded is told once more, later. */
static void
record_answer(void)
{
	bool taken = wahook_judge(answer).success;
	char problem[PROBLEM_SIZE];
	bool noted;

	if (!taken)
	{
		wahook_describe_failure(answer, problem, sizeof(problem));
		wahook_warn_once("alert", "08000", problem);
	}
	noted = wahook_in_transaction(note_told, taken ? NULL : problem);
	wahook_note_result(&tell_pause, taken && noted, MAX_PAUSE_S);
	if (!taken && answer && answer->retry_after[0] != '\0')
	{
		int64 s = wahook_retry_after_s(answer->retry_after, (int64) time(NULL), MAX_PAUSE_S);

		if (s > 0)
			tell_pause.until = Max(tell_pause.until, GetCurrentTimestamp() + s * USECS_PER_SEC);
	}
	wahook_http_free_answer(answer);
	answer = NULL;
	answered = under_way = news.exists = false;
}

/* --- the source --- */

static TimestampTz
turn(TimestampTz now, int heard)
{
	if (news_context == NULL)
		news_context =
			AllocSetContextCreate(TopMemoryContext, "wahook alerts", ALLOCSET_SMALL_SIZES);
	if ((heard & WAHOOK_WORK_ALL) == WAHOOK_WORK_ALL)
	{
		tell_pause = (wahook_Pause){0};
		evaluate_at = DT_NOBEGIN;
	}
	else if (heard & WAHOOK_WORK_CONFIG)
		evaluate_at = Min(evaluate_at, evaluated_at + MIN_INTERVAL_US);
	if (answered)
		record_answer();
	if (wahook_alert_interval_s == 0)
		return DT_NOEND;

	if (evaluate_at <= now)
	{
		if (wahook_in_transaction(evaluate, NULL))
			is_first = false;
		evaluated_at = GetCurrentTimestamp();
		evaluate_at = evaluated_at + wahook_alert_interval_s * USECS_PER_SEC;
	}
	if (!has_news || wahook_alert_url == NULL || under_way)
		return evaluate_at;
	if (tell_pause.failures == 0 || tell_pause.until <= now)
		tell_next();
	if (answered)
		return now; /* it could not be sent */
	if (!has_news || under_way)
		return evaluate_at;
	return Min(evaluate_at, tell_pause.until);
}

/* An answer that comes within this time is recorded; else the same is told again by the next worker. */
static void
stop(void)
{
	for (int waited_ms = 0; under_way && !answered && waited_ms < STOP_WAIT_MS; waited_ms += 100)
	{
		if (wahook_extension_is_gone())
			return;
		wahook_http_wait(100);
		wahook_http_turn();
	}
	if (answered)
		record_answer();
}

const wahook_Source wahook_alerts_source = {.name = "wahook alerts",
											.wants = WAHOOK_WORK_CONFIG,
											.turn = turn,
											.stop = stop};
