/*
 * Dead letters without a conversation, as handler processes take and hold them.
 */
#include "worker/handler_entry.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/plan.h"

static wahook_Plan take_plan =
	{"WITH due AS ("
	 "SELECT d.id FROM @extschema@.webhook_dlq d"
	 " WHERE d.service = $1 AND d.next_retry_at <= $2 AND " WAHOOK_WAITS_DIRECTLY
	 " ORDER BY d.next_retry_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)"
	 " UPDATE @extschema@.webhook_dlq d SET resolution_status = 'retrying', next_retry_at = NULL,"
	 " updated_at = $2, retry_lease_until = $3 FROM due WHERE d.id = due.id"
	 " RETURNING d.id, d.retry_count, d.max_retries",
	 3,
	 {TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};

static wahook_Plan hold_entry_plan =
	{"SELECT id FROM @extschema@.webhook_dlq WHERE id = $1 AND resolution_status = 'retrying'"
	 " AND retry_lease_until = $2 FOR NO KEY UPDATE SKIP LOCKED",
	 2,
	 {UUIDOID, TIMESTAMPTZOID}};

static wahook_Plan give_entry_back_plan =
	{"UPDATE @extschema@.webhook_dlq SET resolution_status = 'pending', next_retry_at = $2,"
	 " retry_lease_until = NULL WHERE id = $1",
	 2,
	 {UUIDOID, TIMESTAMPTZOID}};

bool
wahook_take_direct(const char *service, TimestampTz now, TimestampTz leased_until,
				   wahook_Direct *entry)
{
	Datum values[] = {CStringGetTextDatum(service), TimestampTzGetDatum(now),
					  TimestampTzGetDatum(leased_until)};
	bool isnull;

	if (wahook_execute(&take_plan, values, NULL) == 0)
		return false;
	*entry = (wahook_Direct){.id = *DatumGetUUIDP(wahook_result(0, 1, &isnull)),
							 .retry_count = DatumGetInt32(wahook_result(0, 2, &isnull)),
							 .max_retries = DatumGetInt32(wahook_result(0, 3, &isnull))};
	return true;
}

bool
wahook_hold_direct(const pg_uuid_t *id, TimestampTz leased_until)
{
	Datum values[] = {UUIDPGetDatum(id), TimestampTzGetDatum(leased_until)};

	return wahook_execute(&hold_entry_plan, values, NULL) > 0;
}

void
wahook_give_direct_back(const pg_uuid_t *id)
{
	Datum values[] = {UUIDPGetDatum(id), TimestampTzGetDatum(GetCurrentTimestamp())};

	wahook_execute(&give_entry_back_plan, values, NULL);
}
