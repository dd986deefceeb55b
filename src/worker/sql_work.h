/*
 * What there is to do for services with a SQL handler.
 */
#ifndef WAHOOK_SQL_WORK_H
#define WAHOOK_SQL_WORK_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct wahook_SqlService
{
	char *name;
	bool replies;       /* of an agent are what there is to do */
	int at_most;        /* processes that may be busy with it */
	TimestampTz due_at; /* when there is something to do, its circuit considered; DT_NOEND: nothing */
} wahook_SqlService;

/* The enabled services with a handler, that which has waited longest first. */
typedef struct wahook_SqlWork
{
	MemoryContext context; /* in which they are palloc'd */
	TimestampTz now;       /* when it was looked */
	wahook_SqlService *services;
	int n;
	TimestampTz lease_ends_at; /* then a holder may turn out to have vanished; DT_NOEND: none */
} wahook_SqlWork;

/* A unit for wahook_in_transaction(): fills in the wahook_SqlWork that is its argument. */
extern void wahook_look_for_sql_work(void *arg);

#endif
