/*
 * Reading a body with jansson set up for it, whatever happens.
 */
#include "ingest/parse.h"

#include "core/compat.h"
#include "core/errors.h"
#include "core/settings.h"
#include "ingest/json.h"
#include "ingest/update.h"

void
wahook_parse_delivery(text *body, wahook_Delivery *delivery)
{
	char *text = pnstrdup(VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
	const char *problem = NULL;

	wahook_json_begin();
	PG_TRY();
	{
		problem =
			wahook_read_delivery(text, VARSIZE_ANY_EXHDR(body), wahook_max_json_depth, delivery);
	}
	PG_FINALLY();
	{
		wahook_json_end();
	}
	PG_END_TRY();
	if (problem != NULL)
		ereport(ERROR,
				(errcode(WAHOOK_INVALID_BODY), errmsg("delivery is not valid JSON"),
				 errdetail("The body can't be read: %s.", problem),
				 errhint(
					 "Answer with 400. Meta sends application/json; a proxy may have compressed, cut or changed the body.")));
}

void
wahook_parse_message(const char *message, wahook_Update *update)
{
	memset(update, 0, sizeof(*update));
	wahook_json_begin();
	PG_TRY();
	{
		wahook_read_lone_message(update, (wahook_Span){message, strlen(message)},
								 wahook_max_json_depth);
	}
	PG_FINALLY();
	{
		wahook_json_end();
	}
	PG_END_TRY();
}
