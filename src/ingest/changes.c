/*
 * Edits and revocations: what senders changed of messages that they had sent before.
 *
 * Such a change is a message of its own, which goes its way like any other. Beside that it concerns
 * all who remember the message it is about, whichever service gets the change. Memory may be in the
 * hands of others at this moment, and intake waits for nobody: the change is only noted here, a row
 * each, and applied by whoever reads or writes memory (agent/changes.sql).
 */
#include "ingest/changes.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/table.h"
#include "core/tables.h"
#include "ingest/json.h"

static bool
is_change(const wahook_Outcome *message)
{
	const char *kind = message->update->kind;

	return message->accepted && (strcmp(kind, "edit") == 0 || strcmp(kind, "revoke") == 0);
}

static void
note_change(wahook_Table *changes, const wahook_Intake *intake, const wahook_Outcome *message)
{
	const wahook_Update *update = message->update;
	char *original = wahook_json_text(wahook_member(update->raw, update->kind),
									  "original_message_id", WAHOOK_MAX_MESSAGE_ID_LENGTH);
	Datum values[Natts_change];
	bool nulls[Natts_change] = {false};

	if (original == NULL)
		return;
	values[Anum_change_conversation_id - 1] = UUIDPGetDatum(&message->conversation_id);
	values[Anum_change_whatsapp_message_id - 1] = CStringGetTextDatum(original);
	values[Anum_change_message_id - 1] = UUIDPGetDatum(&message->message_id);
	values[Anum_change_kind - 1] = CStringGetTextDatum(update->kind);
	values[Anum_change_received_at - 1] = TimestampTzGetDatum(intake->now);
	wahook_insert_row(changes, values, nulls, Natts_change);
}

void
wahook_note_changes(const wahook_Intake *intake, wahook_Outcome *const *messages, int n)
{
	wahook_Table changes;
	int first = 0;

	while (first < n && !is_change(messages[first]))
		first++;
	if (first == n)
		return;
	wahook_open_table(&changes, "webhook_message_changes", "webhook_message_changes_pkey");
	for (int i = first; i < n; i++)
		if (is_change(messages[i]))
			note_change(&changes, intake, messages[i]);
	wahook_close_table(&changes);
}
