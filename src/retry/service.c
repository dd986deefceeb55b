/*
 * The trigger on webhook_services: a handler, be it of messages or of an agent's replies, is checked
 * and qualified when it is set, and tied to the role that set it. It is kept as text, because an oid
 * in a table would block pg_upgrade.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core/compat.h"

/* Columns of webhook_services; new ones are only ever added at the end. */
enum
{
	Anum_handler = 2,
	Anum_run_as = 3,
	Anum_reply_handler = 10
};

PG_FUNCTION_INFO_V1(wahook_check_service);

/* Finds the function in the caller's search_path. */
static Oid
find_function(const char *name)
{
	size_t len = strlen(name);
	bool has_arguments = len > 0 && name[len - 1] == ')';
	LOCAL_FCINFO(call, 1);
	Datum function;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = CStringGetTextDatum(has_arguments ? name : psprintf("%s(jsonb)", name));
	call->args[0].isnull = false;
	function = to_regprocedure(call);
	if (call->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("handler \"%s\" does not exist", name),
				 errdetail("There is no such function of one jsonb argument."),
				 errhint(
					 "Create it first, then set it with its schema, for example 'app.handle_message'.")));
	return DatumGetObjectId(function);
}

static void
check_function(Oid function, const char *name)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool fits;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	fits = form->prokind == PROKIND_FUNCTION && !form->proretset && form->pronargs == 1 &&
		   form->proargtypes.values[0] == JSONBOID;
	ReleaseSysCache(tuple);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler \"%s\" is not a function of one jsonb", name),
				 errdetail(
					 "A handler takes the message as its only argument, and returns anything but a set."),
				 errhint("CREATE FUNCTION handle_message(message jsonb) RETURNS void ...")));
}

/* Nobody can make a handler run with rights that are not their own. */
static void
check_role(const char *role, Oid function, const char *handler)
{
	NameData name;
	Oid roleid = get_role_oid(role, false);

	if (!wahook_may_become(GetUserId(), roleid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("handler can't run as role \"%s\"", role),
				 errdetail("Role \"%s\" may not set its role to it.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("Leave run_as null: the handler then runs as the role that sets it.")));
	namestrcpy(&name, role);
	if (!DatumGetBool(DirectFunctionCall3(has_function_privilege_name_id, NameGetDatum(&name),
										  ObjectIdGetDatum(function),
										  CStringGetTextDatum("EXECUTE"))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute handler \"%s\"", role, handler),
				 errhint("GRANT EXECUTE ON FUNCTION %s TO %s;", handler, quote_identifier(role))));
}

static char *
get_column(HeapTuple tuple, TupleDesc desc, int column)
{
	return tuple ? SPI_getvalue(tuple, desc, column) : NULL;
}

/* A role that stands there from before does not answer for another handler. */
static char *
choose_role(HeapTuple new, HeapTuple old, TupleDesc desc)
{
	char *role = get_column(new, desc, Anum_run_as);
	char *old_role = get_column(old, desc, Anum_run_as);

	if (role == NULL || (old_role != NULL && strcmp(role, old_role) == 0))
		return GetUserNameFromId(GetUserId(), false);
	return role;
}

/*
 * BEFORE INSERT OR UPDATE OF handler, run_as, reply_handler on webhook_services. It runs with the
 * rights and the search_path of the caller: a registering function that is SECURITY DEFINER would
 * lend its own. A service has one of the two handlers; that it can't have both is for its CHECK.
 */
Datum
wahook_check_service(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	int columns[] = {Anum_handler, Anum_run_as};
	Datum values[2] = {0};
	bool nulls[2] = {true, true};
	bool updates;
	HeapTuple tuple;
	TupleDesc desc;
	char *name;
	NameData run_as;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as a row trigger", "webhook_check_service"),
				 errhint("Write a function of your own for a trigger of your own.")));
	updates = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	tuple = updates ? trigger->tg_newtuple : trigger->tg_trigtuple;
	desc = RelationGetDescr(trigger->tg_relation);
	name = get_column(tuple, desc, columns[0]);
	if (name == NULL && (name = get_column(tuple, desc, Anum_reply_handler)) != NULL)
		columns[0] = Anum_reply_handler;
	if (name != NULL)
	{
		Oid function = find_function(name);
		char *role = choose_role(tuple, updates ? trigger->tg_trigtuple : NULL, desc);

		check_function(function, name);
		name = format_procedure_qualified(function);
		check_role(role, function, name);
		namestrcpy(&run_as, role);
		values[0] = CStringGetTextDatum(name);
		values[1] = NameGetDatum(&run_as);
		nulls[0] = nulls[1] = false;
	}
	return PointerGetDatum(
		heap_modify_tuple_by_cols(tuple, desc, lengthof(columns), columns, values, nulls));
}
