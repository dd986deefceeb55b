/*
 * What differs between PostgreSQL 15, 16, 17 and 18, and nothing else. Include it after fmgr.h.
 */
#ifndef WAHOOK_COMPAT_H
#define WAHOOK_COMPAT_H

#include "postgres.h"

#include "access/tableam.h"
#include "fmgr.h"

/* Before 18, it stands behind the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#else

/* Before 16, nothing marks a module's functions as visible. */
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(funcname) \
	extern PGDLLEXPORT Datum funcname(PG_FUNCTION_ARGS); \
	extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, funcname)(void); \
	const Pg_finfo_record *CppConcat(pg_finfo_, funcname)(void) \
	{ \
		static const Pg_finfo_record my_finfo = {1}; \
		return &my_finfo; \
	} \
	extern int no_such_variable
#endif

#if PG_VERSION_NUM >= 160000
#define wahook_init_epq(epq, estate) EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL)
#else
#define wahook_init_epq(epq, estate) EvalPlanQualInit(epq, estate, NULL, NIL, -1)
#endif

/* Since 16, an update that only BRIN indexes need to know of can be HOT. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes wahook_UpdateIndexes;
#define wahook_has_index_updates(updates) ((updates) != TU_None)
#define wahook_insert_index_tuples(info, slot, estate, updates) \
	ExecInsertIndexTuples(info, slot, estate, true, false, NULL, NIL, (updates) == TU_Summarizing)
#define wahook_insert_new_index_tuples(info, slot, estate, conflict) \
	ExecInsertIndexTuples(info, slot, estate, false, true, conflict, NIL, false)
#define wahook_insert_all_index_tuples(info, slot, estate) \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL, false)
#else
#define wahook_insert_new_index_tuples(info, slot, estate, conflict) \
	ExecInsertIndexTuples(info, slot, estate, false, true, conflict, NIL)
#define wahook_insert_all_index_tuples(info, slot, estate) \
	ExecInsertIndexTuples(info, slot, estate, false, false, NULL, NIL)
typedef bool wahook_UpdateIndexes;
#define wahook_has_index_updates(updates) (updates)
#define wahook_insert_index_tuples(info, slot, estate, updates) \
	ExecInsertIndexTuples(info, slot, estate, true, false, NULL, NIL)
#endif

/* Since 17, an index may keep something from one insertion to the next. */
#if PG_VERSION_NUM >= 170000
#define wahook_index_insert_cleanup(index, info) index_insert_cleanup(index, info)
#else
#define wahook_index_insert_cleanup(index, info) ((void) (index), (void) (info))
#endif

/* Since 16, a membership need not allow SET ROLE. Include utils/acl.h. */
#if PG_VERSION_NUM >= 160000
#define wahook_may_become(member, role) member_can_set_role(member, role)
#else
#define wahook_may_become(member, role) is_member_of_role(member, role)
#endif

/* Since 18, a tuple of one's own is not in its own way. */
#if PG_VERSION_NUM >= 180000
#define wahook_check_unique(info, slot, estate, other, indexes) \
	ExecCheckIndexConstraints(info, slot, estate, other, NULL, indexes)
#else
#define wahook_check_unique(info, slot, estate, other, indexes) \
	ExecCheckIndexConstraints(info, slot, estate, other, indexes)
#endif

/* Since 17, a set belongs to a resource owner, or to none. Include storage/latch.h. */
#if PG_VERSION_NUM >= 170000
#define wahook_create_wait_set(n) CreateWaitEventSet(NULL, n)
#else
#define wahook_create_wait_set(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/* Since 16, there is one check of privileges for all kinds of objects. Include utils/acl.h and catalog/pg_proc.h. */
#if PG_VERSION_NUM >= 160000
#define wahook_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK)
#else
#define wahook_may_execute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* Since 17, a module's wait events can have names. Include pgstat.h. */
#if PG_VERSION_NUM >= 170000
#define wahook_new_wait_event(name) WaitEventExtensionNew(name)
#else
#define wahook_new_wait_event(name) ((void) (name), PG_WAIT_EXTENSION)
#endif

/* Since 16, there is one check of ownership for all kinds of objects. Include utils/acl.h. */
#if PG_VERSION_NUM >= 160000
#define wahook_owns_database(database, role) object_ownercheck(DatabaseRelationId, database, role)
#define wahook_owns_extension(ext, role) object_ownercheck(ExtensionRelationId, ext, role)
#else
#define wahook_owns_database(database, role) pg_database_ownercheck(database, role)
#define wahook_owns_extension(ext, role) pg_extension_ownercheck(ext, role)
#endif

#if PG_VERSION_NUM >= 180000
#define wahook_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define wahook_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* A string that a setting's check hook hands to the server, in the memory that the server expects. Include utils/guc.h. */
#if PG_VERSION_NUM >= 160000
#define wahook_guc_strdup(string) guc_strdup(LOG, string)
#else
#define wahook_guc_strdup(string) strdup(string)
#endif

/* Since 18, bytes are uint8. Include common/base64.h. */
#if PG_VERSION_NUM >= 180000
#define wahook_b64_encode(bytes, len, to, size) pg_b64_encode(bytes, len, to, size)
#define wahook_b64_decode(from, len, bytes, size) pg_b64_decode(from, len, bytes, size)
#else
#define wahook_b64_encode(bytes, len, to, size) pg_b64_encode((const char *) (bytes), len, to, size)
#define wahook_b64_decode(from, len, bytes, size) pg_b64_decode(from, len, (char *) (bytes), size)
#endif

#endif
